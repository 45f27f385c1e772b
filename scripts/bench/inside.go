package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/eventlog/event"
)

// order asks an agent to publish from inside.
type order struct {
	Publishers int           `json:"publishers"` // 0: only write the profile
	InFlight   int           `json:"in_flight"`  // of each publisher
	Wait       bool          `json:"wait"`       // for the place in the log; else for the own fsync
	For        time.Duration `json:"for"`
	Profile    string        `json:"profile,omitempty"` // write a CPU profile of the run here
}

// outcome is what became of it.
type outcome struct {
	Events int           `json:"events"`
	Took   time.Duration `json:"took"`
	P50    time.Duration `json:"p50"`
	P99    time.Duration `json:"p99"`
	Max    time.Duration `json:"max"`
	Error  string        `json:"error,omitempty"`
}

// outcomeOf is what the times come to that events took since began.
func outcomeOf(all []time.Duration, began time.Time) outcome {
	return outcome{Events: len(all), Took: time.Since(began), P50: quantile(all, 0.5), P99: quantile(all, 0.99), Max: quantile(all, 1)}
}

// runAgent runs an agent as `ringagent agent` does and serves orders on a socket beside.
func runAgent(ctx context.Context, dir, control string) error {
	conf, _, err := config.Load(dir, filepath.Join(dir, "config.yaml"))
	if err != nil {
		return err
	}
	agent.TuneMemory()
	log, level, err := agent.NewLogger(os.Stderr, conf.Log)
	if err != nil {
		return err
	}
	a, err := agent.New(conf, agent.Options{Log: log, Level: level})
	if err != nil {
		return err
	}
	if err := os.Remove(control); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("clear socket: %w", err)
	}
	l, err := net.Listen("unix", control)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(ctx, c, a.Outbox())
		}
	}()
	return a.Run(ctx)
}

// serve answers one order a connection.
func serve(ctx context.Context, c net.Conn, o *eventlog.Outbox) {
	defer c.Close()
	var in order
	if json.NewDecoder(c).Decode(&in) != nil {
		return
	}
	out, err := in.run(ctx, o)
	if err != nil {
		out.Error = err.Error()
	}
	_ = json.NewEncoder(c).Encode(out)
}

// payload is one of 512 bytes.
func payload() json.RawMessage {
	const frame = `{"text":""}`
	return json.RawMessage(`{"text":"` + strings.Repeat("x", 512-len(frame)) + `"}`)
}

// run publishes until the time is over, and waits for what is under way.
func (in order) run(ctx context.Context, o *eventlog.Outbox) (outcome, error) {
	if in.Profile != "" {
		f, err := os.Create(in.Profile + ".cpu")
		if err != nil {
			return outcome{}, err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return outcome{}, err
		}
		defer pprof.StopCPUProfile()
	}
	draft := event.Draft{Type: "OPERATOR_NOTE", Payload: payload()}
	opt := eventlog.PublishOptions{By: event.ByExternal}
	var group sync.WaitGroup
	var over atomic.Bool
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	begin := time.Now()
	end := time.AfterFunc(in.For, func() { over.Store(true) })
	defer end.Stop()
	for range in.Publishers * max(1, in.InFlight) {
		group.Go(func() {
			var took []time.Duration
			var err error
			for first := true; (first || !over.Load()) && err == nil; first = false { // one at least, however short the run
				began := time.Now()
				if in.Wait {
					_, _, err = o.PublishWait(ctx, draft, opt)
				} else {
					_, err = o.Publish(ctx, draft, opt)
				}
				if err == nil {
					took = append(took, time.Since(began))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			if err != nil && failed == nil {
				failed = err
			}
		})
	}
	group.Wait()
	if in.Publishers == 0 { // it only watches
		wait(ctx, in.For)
		if err := in.dump("heap", "goroutine"); err != nil {
			return outcome{}, err
		}
	}
	return outcomeOf(all, begin), failed
}

// dump writes what the process holds now.
func (in order) dump(profiles ...string) error {
	if in.Profile == "" {
		return nil
	}
	for _, p := range profiles {
		f, err := os.Create(in.Profile + "." + p)
		if err != nil {
			return err
		}
		if err := errors.Join(pprof.Lookup(p).WriteTo(f, 0), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// ask gives an order to a node's agent.
func (n *node) ask(ctx context.Context, in order) (outcome, error) {
	var out outcome
	ctx, cancel := context.WithTimeout(ctx, in.For+patience)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", n.control())
	if err != nil {
		return out, fmt.Errorf("reach %s: %w", n.name, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if err := json.NewEncoder(c).Encode(in); err != nil {
		return out, fmt.Errorf("ask %s: %w", n.name, err)
	}
	if err := json.NewDecoder(c).Decode(&out); err != nil {
		return out, fmt.Errorf("hear %s: %w", n.name, err)
	}
	if out.Error != "" {
		return out, errors.New(out.Error)
	}
	return out, nil
}
