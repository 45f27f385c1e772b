package leader_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

// fsyncFloor is how long a 4 KiB append and fsync takes here.
func fsyncFloor(b *testing.B) time.Duration {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "floor"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const n = 200
	began := time.Now()
	for range n {
		if _, err := f.Write(make([]byte, 4<<10)); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began) / n
}

// BenchmarkProposeEvents commits events of 512 bytes on three voters with real disks in one process: publishers that wait
// for each of their batches.
func BenchmarkProposeEvents(b *testing.B) {
	for _, c := range []struct{ publishers, batch int }{{1, 1}, {64, 1}, {64, 16}} {
		b.Run(fmt.Sprintf("%dx%d", c.publishers, c.batch), func(b *testing.B) {
			floor := fsyncFloor(b)
			r := leadertest.New(b, leadertest.Options{Core: 3, Voters: 3})
			defer r.Stopped()
			r.Wait(30*time.Second, "three voters", voters(r, 3))
			n := r.Coordinator().Node
			payload := fmt.Appendf(nil, `{"x":"%0400d"}`, 1)
			var wg sync.WaitGroup
			left := make(chan struct{}, b.N)
			for range b.N {
				left <- struct{}{}
			}
			close(left)
			b.ResetTimer()
			for p := range c.publishers {
				wg.Go(func() {
					o := &outbox{origin: event.Origin(fmt.Sprintf("%016x", p+1)), node: n.Self().Node, next: 1}
					for range left {
						e := state.EventBatch{Origin: o.origin, Node: o.node, First: o.next, Before: o.hash}
						for range c.batch {
							d := event.AppendDraft(nil, event.Draft{Type: "OPERATOR_NOTE", Node: o.node, Time: time.Unix(0, 0), Payload: payload})
							o.hash = o.hash.Next(d)
							e.Drafts = append(e.Drafts, d)
						}
						res, err := n.ProposeEvents(context.Background(), e)
						if err != nil {
							b.Error(err)
							return
						}
						o.next = res.Next
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			rate := float64(b.N*c.batch) / b.Elapsed().Seconds()
			b.ReportMetric(rate, "events/s")
			b.ReportMetric(rate*floor.Seconds(), "×fsync-floor")
			b.ReportMetric(float64(floor.Microseconds()), "fsync-µs")
		})
	}
}
