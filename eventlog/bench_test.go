package eventlog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
)

// fsyncFloor appends 4 KiB and fsyncs, n times: what no durable publish can beat. It returns the median.
func fsyncFloor(b *testing.B, n int) time.Duration {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "floor"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	took := make([]time.Duration, n)
	for i := range took {
		begin := time.Now()
		if _, err := f.Write(page); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		took[i] = time.Since(begin)
	}
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	return took[n/2]
}

func note512() event.Draft { return note(strings.Repeat("x", 440)) }

// BenchmarkFloor is the figure beside which the others are to be read.
func BenchmarkFloor(b *testing.B) {
	p50 := fsyncFloor(b, max(b.N, 100))
	b.ReportMetric(float64(p50.Microseconds()), "µs/fsync-p50")
}

// BenchmarkPublish: publishers wait for the fsync of each event; "x16" keeps 16 under way each.
func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct{ publishers, inFlight int }{{1, 1}, {64, 1}, {64, 16}} {
		for _, wait := range []bool{false, true} {
			name := fmt.Sprintf("stored/%dx%d", c.publishers, c.inFlight)
			if wait {
				name = fmt.Sprintf("placed/%dx%d", c.publishers, c.inFlight)
			}
			b.Run(name, func(b *testing.B) {
				o, _ := outboxAt(b, b.TempDir(), newModelRing(), nil)
				d := note512()
				work := make(chan struct{}, b.N)
				for range b.N {
					work <- struct{}{}
				}
				close(work)
				var wg sync.WaitGroup
				b.ReportAllocs()
				b.ResetTimer()
				for range c.publishers * c.inFlight {
					wg.Go(func() {
						for range work {
							var err error
							if wait {
								_, _, err = o.PublishWait(b.Context(), d, external)
							} else {
								_, err = o.Publish(b.Context(), d, external)
							}
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				rate := float64(b.N) / b.Elapsed().Seconds()
				b.ReportMetric(rate, "events/s")
				b.ReportMetric(rate*fsyncFloor(b, 200).Seconds(), "events/fsync")
			})
		}
	}
}

func longRing(n int) *modelRing {
	ring := newModelRing()
	d := note512()
	d.Node, d.Time = testNode, time.UnixMicro(1e9)
	for i := range n {
		ring.put(event.Record{Origin: "o", Number: uint64(i + 1), Draft: d})
	}
	return ring
}

// BenchmarkReplicaAppend offers batches as applied entries do.
func BenchmarkReplicaAppend(b *testing.B) {
	for _, batch := range []int{1, 64, 512} {
		b.Run(fmt.Sprint("batch=", batch), func(b *testing.B) {
			ring := longRing(b.N)
			r, _ := replicaAt(b, b.TempDir(), nil, func(o *ReplicaOptions) { o.QueueBytes = 1 << 30 })
			b.ReportAllocs()
			b.ResetTimer()
			for at := 0; at < b.N; at += batch {
				end := min(at+batch, b.N)
				r.Offer(ring.log[at:end])
				if batch == 1 {
					if err := r.WaitDurable(b.Context(), uint64(end)); err != nil {
						b.Fatal(err)
					}
				}
			}
			if err := r.WaitDurable(b.Context(), uint64(b.N)); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func benchReplica(b *testing.B, n int) *Replica {
	b.Helper()
	ring := longRing(n)
	r, _ := replicaAt(b, b.TempDir(), nil, func(o *ReplicaOptions) { o.QueueBytes = 1 << 30 })
	r.Offer(ring.log)
	if err := r.WaitDurable(b.Context(), uint64(n)); err != nil {
		b.Fatal(err)
	}
	return r
}

// BenchmarkTail reads a log from its start, checked and decoded; an operation is one event.
func BenchmarkTail(b *testing.B) {
	const n = 20000
	r := benchReplica(b, n)
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; {
		for _, err := range r.Tail(b.Context(), FromStart(), Filter{}, false) {
			if err != nil {
				b.Fatal(err)
			}
			if left--; left == 0 {
				break
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkVerify checks a log of 20 000 events from the disk.
func BenchmarkVerify(b *testing.B) {
	const n = 20000
	r := benchReplica(b, n)
	b.ResetTimer()
	for range b.N {
		if res, err := r.Verify(b.Context()); err != nil || !res.OK {
			b.Fatal(res, err)
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkPrepare(b *testing.B) {
	d := note512()
	d.Payload = bytes.Clone(d.Payload)
	b.ReportAllocs()
	for range b.N {
		if _, err := event.Catalogue().Prepare(d, event.ByExternal); err != nil {
			b.Fatal(err)
		}
	}
}
