package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

const (
	bareBatch  = 512 // events an entry
	bareFlying = 4   // entries on their way

	// bareGarbage is in percent. They hold next to nothing: with this as much garbage gathers as in an agent under load, and with
	// that one's figure they would collect all the time.
	bareGarbage = 2000
)

// bare commits events of 512 bytes with nothing of ours: three nodes of the Raft library in this one process, its TCP
// transport without TLS, raft-boltdb set up as the agents set it up or, for what no disk could make quicker, memory; a state
// machine that only counts. No outbox, no replica of a log, no checksum. It says what of an agent's rate is the libraries'.
type bare struct {
	nodes  []*raft.Raft
	lead   *raft.Raft
	close  []func() error
	events chan chan error
}

func startBare(ctx context.Context, dir string, inMemory bool) (b *bare, err error) {
	b = &bare{events: make(chan chan error, 4*bareBatch)}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.stop())
		}
	}()
	var servers raft.Configuration
	var transports []*raft.NetworkTransport
	for i := range 3 {
		t, err := raft.NewTCPTransportWithLogger("127.0.0.1:0", nil, 3, 10*time.Second, hclog.NewNullLogger())
		if err != nil {
			return b, fmt.Errorf("open transport: %w", err)
		}
		b.close = append(b.close, t.Close)
		transports = append(transports, t)
		servers.Servers = append(servers.Servers, raft.Server{ID: raft.ServerID(fmt.Sprint(i)), Address: t.LocalAddr()})
	}
	for i, t := range transports {
		var store interface {
			raft.LogStore
			raft.StableStore
		} = raft.NewInmemStore()
		if !inMemory {
			file, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, fmt.Sprint("bare", i)),
				BoltOptions: &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType}})
			if err != nil {
				return b, fmt.Errorf("open store: %w", err)
			}
			b.close = append(b.close, file.Close)
			store = file
		}
		conf := raft.DefaultConfig()
		conf.LocalID, conf.Logger, conf.SnapshotThreshold = servers.Servers[i].ID, hclog.NewNullLogger(), 1<<40
		snapshots := raft.NewInmemSnapshotStore()
		if err := raft.BootstrapCluster(conf, store, store, snapshots, t, servers); err != nil {
			return b, fmt.Errorf("begin cluster: %w", err)
		}
		r, err := raft.NewRaft(conf, counter{}, store, store, snapshots, t)
		if err != nil {
			return b, fmt.Errorf("start node: %w", err)
		}
		b.nodes = append(b.nodes, r)
	}
	return b, until(ctx, "a leader", func(context.Context) error {
		for _, r := range b.nodes {
			if r.State() == raft.Leader && r.VerifyLeader().Error() == nil {
				b.lead = r
				return nil
			}
		}
		return errors.New("none yet")
	})
}

func (b *bare) stop() error {
	var errs []error
	for _, r := range b.nodes {
		errs = append(errs, r.Shutdown().Error())
	}
	for _, f := range b.close {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// run has so many wait for the commit of one event each, over and over.
func (b *bare) run(waiting int, d time.Duration) (outcome, error) {
	end := time.Now().Add(d)
	var publishers, flying sync.WaitGroup
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	begin := time.Now()
	for range waiting {
		publishers.Go(func() {
			var took []time.Duration
			var err error
			done := make(chan error, 1)
			for time.Now().Before(end) && err == nil {
				began := time.Now()
				b.events <- done
				if err = <-done; err == nil {
					took = append(took, time.Since(began))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			failed = errors.Join(failed, err)
		})
	}
	over := make(chan struct{})
	go func() { publishers.Wait(); close(over) }()
	slots := make(chan struct{}, bareFlying)
	for running := true; running; {
		select {
		case first := <-b.events:
			slots <- struct{}{}
			group := append(make([]chan error, 0, bareBatch), first)
			for more := true; more && len(group) < bareBatch; {
				select {
				case next := <-b.events:
					group = append(group, next)
				default:
					more = false
				}
			}
			applied := b.lead.Apply(make([]byte, 512*len(group)), 10*time.Second)
			flying.Go(func() {
				err := applied.Error()
				<-slots
				for _, done := range group {
					done <- err
				}
			})
		case <-over:
			running = false
		}
	}
	flying.Wait()
	return outcomeOf(all, begin), failed
}

// bareThroughput prints what the libraries do alone, and what any program has to do.
func bareThroughput(ctx context.Context, o options, t *table) error {
	t.head("The libraries alone, and the least: three nodes in one process, 512 B, publishers wait; CPU is that of this process",
		"", "rate", "× fsync floor", "p50", "p99", "CPU/event")
	defer debug.SetGCPercent(debug.SetGCPercent(bareGarbage))
	f, err := takeFloors(o.dir)
	if err != nil {
		return err
	}
	for _, inMemory := range []bool{false, true} {
		if err := o.bareRing(ctx, t, f, inMemory); err != nil {
			return err
		}
	}
	for _, asked := range []bool{false, true} {
		if err := o.leastRounds(t, f, asked); err != nil {
			return err
		}
	}
	return nil
}

// leastRounds prints what the least that any program has to do comes to, or the least with what is asked for an event besides.
func (o options) leastRounds(t *table, f floors, asked bool) (err error) {
	dir, err := os.MkdirTemp(o.dir, "least")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(dir)
	l, err := openLeast(dir, asked)
	if err != nil {
		return fmt.Errorf("open the least: %w", err)
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	out, used, err := alone(func() (outcome, error) { return l.run(o.seconds) })
	if err != nil {
		return fmt.Errorf("do the least: %w", err)
	}
	name := "four writes and the bytes"
	if asked {
		name = "… TLS, checks, hashes, three copies"
	}
	t.throughput(fmt.Sprintf("committed, %d×1, %s", leastPublishers, name), out, used, order{}, f)
	return nil
}

// alone runs f and returns with its outcome what CPU time this process used meanwhile; 0 where that cannot be known.
func alone(f func() (outcome, error)) (outcome, time.Duration, error) {
	began, known := cpuOf(os.Getpid())
	out, err := f()
	ended, still := cpuOf(os.Getpid())
	if known != nil || still != nil {
		return out, 0, err
	}
	return out, ended - began, err
}

func (o options) bareRing(ctx context.Context, t *table, f floors, inMemory bool) (err error) {
	dir, err := os.MkdirTemp(o.dir, "bare")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(dir)
	b, err := startBare(ctx, dir, inMemory)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	name, runs := "raft and raft-boltdb", []int{1, 16}
	if inMemory {
		name, runs = "raft, no disk at all", []int{1}
	}
	for _, inFlight := range runs {
		out, used, err := alone(func() (outcome, error) { return b.run(64*inFlight, o.seconds) })
		if err != nil {
			return err
		}
		t.throughput(fmt.Sprintf("committed, 64×%d, %s", inFlight, name), out, used, order{}, f)
	}
	return nil
}

// counter is the state machine of a bare node.
type counter struct{}

func (counter) Apply(*raft.Log) any                  { return nil }
func (counter) Snapshot() (raft.FSMSnapshot, error)  { return nil, raft.ErrNothingNewToSnapshot }
func (counter) Restore(snapshot io.ReadCloser) error { return snapshot.Close() }
