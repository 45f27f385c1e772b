// Command bench measures a ring of real agent processes on this machine and prints the figures beside floors that were
// measured in the same run. It owns its folder and the processes that it starts, and nothing else; `make bench` calls it.
//
// Start, idling, visibility and failover are measured on the built binary as it is. Throughput is measured on the same
// agents with one thing added: a socket on which this program asks them to publish from inside, as daemons do. For that it
// runs itself again with -agent. All traffic is TLS over loopback, all files are on the disk under -dir.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are what the command line says.
type options struct {
	bin      string
	self     string
	dir      string
	only     []string
	port     int
	seconds  time.Duration // of each throughput run
	idle     time.Duration // of the idle window
	rounds   int           // of start and failover
	kind     string        // of the throughput runs, a part of their names; "" for all
	profiles string        // folder for profiles of the throughput runs; "" for none
	sync     time.Duration // by which every fsync is held back; 0 for the disk as it is
}

// slowed is the socket's number that says: this process is held back already.
const slowed = -1

func (o options) wants(what string) bool { return len(o.only) == 0 || slices.Contains(o.only, what) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o options
	var only, agentDir, control string
	var socket int
	flag.StringVar(&o.bin, "bin", "bin/ringagent", "the built binary")
	flag.StringVar(&o.dir, "dir", "", "folder for data (default: a temporary one, removed at the end)")
	flag.StringVar(&only, "only", "", "comma-separated: bare, throughput, slow, visible, idle, start, failover (default: all)")
	flag.IntVar(&o.port, "base-port", 8870, "first port of the rings")
	flag.DurationVar(&o.seconds, "for", 5*time.Second, "length of each throughput run")
	flag.DurationVar(&o.idle, "idle", 30*time.Second, "length of the idle window")
	flag.IntVar(&o.rounds, "rounds", 5, "how often to start and to fail over")
	flag.StringVar(&o.profiles, "profiles", "", "write CPU, heap and goroutine profiles to this folder")
	flag.StringVar(&o.kind, "kind", "", "only throughput runs whose name contains this")
	flag.DurationVar(&o.sync, "sync", 0, "hold every fsync back by this, as a slower disk would (Linux)")
	flag.IntVar(&socket, "sync-socket", 0, "where to hand the filter over for that (used by the program itself)")
	flag.StringVar(&agentDir, "agent", "", "run an agent on this data dir (used by the program itself)")
	flag.StringVar(&control, "control", "", "socket of that agent")
	flag.Parse()
	if agentDir != "" {
		if o.profiles == "" {
			runtime.MemProfileRate = 0 // the binary itself cannot even sample its heap
		}
		return runAgent(ctx, agentDir, control)
	}
	for _, s := range strings.Split(only, ",") {
		if s != "" {
			o.only = append(o.only, s)
		}
	}
	var err error
	if o.self, err = os.Executable(); err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	switch {
	case socket > 0:
		return runSlowed(o.self, socket, os.Args[3:])
	case o.sync > 0 && socket != slowed:
		return slowly(ctx, o.self, o.sync, os.Args[1:])
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return fmt.Errorf("find binary: %w", err)
	}
	if _, err := os.Stat(o.bin); err != nil {
		return fmt.Errorf("find binary: %w", err)
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "ringbench"); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		defer os.RemoveAll(o.dir)
	} else if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if o.profiles != "" {
		if err := os.MkdirAll(o.profiles, 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	return measure(ctx, o)
}

// measure runs every part that is wanted and prints the table. One part that fails does not cost the others.
func measure(ctx context.Context, o options) error {
	began := time.Now()
	t := newTable(os.Stdout)
	t.line("%s, %s", machine(), began.UTC().Format("2006-01-02 15:04 MST"))
	if o.sync > 0 {
		t.line("Every fsync is held back by %s, that of the floors as well.", o.sync)
	}
	f, err := takeFloors(o.dir)
	if err != nil {
		return fmt.Errorf("measure floors: %w", err)
	}
	t.floors("before", f)
	var errs []error
	part := func(name string, f func(context.Context, options, *table) error) {
		if !o.wants(name) || ctx.Err() != nil {
			return
		}
		if err := f(ctx, o, t); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			t.line("%s: FAILED: %v", name, err)
		}
	}
	part("bare", bareThroughput)
	part("throughput", throughput)
	part("slow", slowDisk)
	part("visible", visible)
	part("idle", idle)
	part("start", start)
	part("failover", failover)
	if f, err = takeFloors(o.dir); err == nil {
		t.floors("after", f)
	}
	t.summary(time.Since(began))
	return errors.Join(append(errs, ctx.Err())...)
}
