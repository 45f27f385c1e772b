package eventlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/eventlog/event"
)

func TestReturners(t *testing.T) {
	t.Parallel()
	type step struct {
		do      string // told N, number, late
		n       int    // told; records that wait
		last    uint64
		awaited bool
	}
	for name, steps := range map[string][]step{
		"all come back": {
			{"told", 8, 10, true}, {"number", 1, 11, true}, {"number", 7, 17, true}, {"number", 8, 18, false}, {"told", 8, 18, true},
		},
		"some are told while others are waited for": {
			{"told", 8, 10, true}, {"number", 1, 11, true}, {"told", 1, 11, true}, {"number", 8, 18, true}, {"number", 9, 19, false},
		},
		"one is not waited for":  {{"told", 1, 10, false}},
		"nobody was told":        {{"told", 0, 10, false}},
		"much waits already":     {{"told", 100, 10, true}, {"number", 127, 11, true}, {"number", 128, 12, false}},
		"most came back in time": {{"told", 8, 10, true}, {"number", 6, 16, true}, {"late", 0, 16, false}, {"told", 8, 16, true}},
		"in vain, twice": {
			{"told", 8, 10, true}, {"number", 5, 15, true}, {"late", 0, 15, false}, {"told", 8, 15, false},
			{"told", 8, 15, true}, {"late", 0, 15, false}, {"told", 8, 15, false}, {"told", 8, 15, false}, {"told", 8, 15, false}, {"told", 8, 15, true},
			{"number", 8, 23, false}, {"told", 8, 23, true}, // and once it is not
			{"late", 0, 23, false}, {"told", 8, 23, false}, {"told", 8, 23, true},
		},
		"time is over after all came": {{"told", 8, 10, true}, {"number", 8, 18, false}, {"late", 0, 18, false}, {"told", 8, 18, true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r returners
			for i, s := range steps {
				switch s.do {
				case "told":
					if begins := r.expect(s.last, s.n); begins && !s.awaited {
						t.Errorf("step %d: a wait begins", i)
					}
				case "number": // as the outbox does, while somebody is awaited
					if on := r.number(s.last, s.n); on != s.awaited {
						t.Errorf("step %d: goes on %v", i, on)
					}
				case "late":
					r.late(s.last)
				}
				if r.awaited() != s.awaited {
					t.Fatalf("step %d: awaited %v", i, r.awaited())
				}
			}
		})
	}
	var r returners
	for range 20 {
		for !r.expect(10, 8) {
		}
		r.late(10)
	}
	if r.pause != returnPause {
		t.Errorf("nobody is waited for %d times in a row, want %d", r.pause, returnPause)
	}
}

// TestThoseWhoReturnTravelTogether: 64 publishers that wait for each event are one batch and one commit to a round, also if they
// begin as two groups, one while the other's batch is under way.
func TestThoseWhoReturnTravelTogether(t *testing.T) {
	t.Parallel()
	const publishers, rounds = 64, 20
	for name, late := range map[string]time.Duration{"one group": 0, "two groups": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			travelTogether(t, publishers, rounds, late)
		})
	}
}

func travelTogether(t *testing.T, publishers, rounds int, late time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		// The first round has no earlier one to go by, and those who come first in it may take another to find the others.
		var mu sync.Mutex
		var batches []int
		commits, published := 0, 0
		counts := func() bool { return published >= 3*publishers }
		o, stop := outboxAt(t, t.TempDir(), newModelRing(), func(p *OutboxOptions) {
			p.Sequencer = lazyRing{newModelRing(), func() time.Duration { return 2 * time.Millisecond }}
			p.hooks.handedOver = func(b Batch) {
				mu.Lock()
				defer mu.Unlock()
				if counts() {
					batches = append(batches, len(b.Drafts))
				}
			}
			p.hooks.commit = func() error {
				mu.Lock()
				defer mu.Unlock()
				if counts() {
					commits++
				}
				return nil
			}
		})
		defer stop()
		time.Sleep(time.Second) // the session has begun
		var group sync.WaitGroup
		for i := range publishers {
			group.Go(func() {
				if i%3 == 0 {
					time.Sleep(late)
				}
				for n := range rounds {
					if _, _, err := o.PublishWait(t.Context(), note(fmt.Sprint(i, " ", n)), external); err != nil {
						t.Error(err)
					}
					mu.Lock()
					published++
					mu.Unlock()
				}
			})
		}
		group.Wait()
		mu.Lock()
		defer mu.Unlock()
		if most := rounds - 1; len(batches) > most || commits > most {
			t.Errorf("the last %d rounds took %d commits, and batches of %v", rounds-3, commits, batches)
		}
	})
}

// TestNobodyWaitsForThoseWhoStayAway: 64 who published once do not keep others up for more than a moment.
func TestNobodyWaitsForThoseWhoStayAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, stop := outboxAt(t, t.TempDir(), newModelRing(), nil)
		defer stop()
		for range 10 {
			var group sync.WaitGroup
			for range 64 {
				group.Go(func() { publishAll(t, o, []string{"once"}) })
			}
			group.Wait()
			began := time.Now()
			publishAll(t, o, []string{"alone"})
			if took := time.Since(began); took > returnTime {
				t.Errorf("took %s", took)
			}
		}
	})
}

// TestNumberedDuringAFailingCommit: what gets its number while a commit runs that fails was not stored either, keeps its number,
// and comes into the file and the log once.
func TestNumberedDuringAFailingCommit(t *testing.T) {
	t.Parallel()
	ring, dir := newModelRing(), t.TempDir()
	var armed atomic.Bool
	inCommit, release := make(chan struct{}), make(chan struct{})
	o, stop := outboxAt(t, dir, ring, func(p *OutboxOptions) {
		p.hooks.commit = func() error {
			if !armed.CompareAndSwap(true, false) {
				return nil
			}
			inCommit <- struct{}{}
			<-release
			return syscall.EIO
		}
	})
	publishAll(t, o, []string{"a"})
	eventually(t, "placed", func() bool { s := o.Status(); return s.Acked == s.Last })
	armed.Store(true)
	errs := make(chan error, 2)
	publish := func(text string) {
		_, err := o.Publish(t.Context(), note(text), external)
		errs <- err
	}
	go publish("b")
	<-inCommit
	go publish("c")
	eventually(t, "on its way", func() bool { return len(ring.texts(t)) == 3 }) // although b's commit has not ended
	close(release)
	for range 2 {
		if err := <-errs; !errors.Is(err, ErrNotStored) {
			t.Error(err)
		}
	}
	eventually(t, "mended", func() bool { s := o.Status(); return s.Degraded == nil && s.Last == 3 })
	publishAll(t, o, []string{"d"})
	stop()
	o, _ = outboxAt(t, dir, ring, nil)
	publishAll(t, o, []string{"e"})
	eventually(t, "placed", func() bool { return len(ring.texts(t)) == 5 })
	if diff := cmp.Diff([]string{"a", "b", "c", "d", "e"}, ring.texts(t)); diff != "" || ring.altered != 0 {
		t.Error(diff, ring.altered)
	}
}

// TestKeyIsKnownBeforeItsEventTravels: a process that ends during a commit has not sent what has a key, since it will not know the
// key when it is back and its publisher asks again. The variant has the event twice.
func TestKeyIsKnownBeforeItsEventTravels(t *testing.T) {
	t.Parallel()
	for name, variant := range map[string]bool{"kept back": false, "variant": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ring, dir, later := newModelRing(), t.TempDir(), t.TempDir()
				var armed atomic.Bool
				release := make(chan struct{})
				o, stop := outboxAt(t, dir, ring, func(p *OutboxOptions) {
					p.hooks.keysEarly = variant
					p.hooks.commit = func() error {
						if armed.Load() {
							<-release
						}
						return nil
					}
				})
				publishAll(t, o, []string{"a"})
				time.Sleep(time.Second) // what is acknowledged is written down
				keyed := PublishOptions{By: event.ByExternal, Key: "k"}
				armed.Store(true)
				go func() { _, _ = o.Publish(t.Context(), note("b"), keyed) }()
				synctest.Wait()
				copyFile(t, filepath.Join(dir, "outbox.db"), filepath.Join(later, "outbox.db")) // as the process leaves it that is killed now
				ring.set(func() { ring.down = true })
				close(release)
				stop()
				ring.set(func() { ring.down = false })
				time.Sleep(time.Second) // so that it is stated at another time
				o, stop = outboxAt(t, later, ring, nil)
				defer stop()
				if _, _, err := o.PublishWait(t.Context(), note("b"), keyed); err != nil {
					t.Fatal(err)
				}
				want := []string{"a", "b"}
				if variant {
					want = append(want, "b")
				}
				if diff := cmp.Diff(want, ring.texts(t)); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestNobodyEntersWhileTheWriterChangesMore: a new origin is given to what is in the file. What got a number of the old one
// meanwhile would be nowhere, as the variant shows.
func TestNobodyEntersWhileTheWriterChangesMore(t *testing.T) {
	t.Parallel()
	for name, variant := range map[string]bool{"shut": false, "variant": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ring := newModelRing()
				o, stop := outboxAt(t, t.TempDir(), ring, func(p *OutboxOptions) { p.hooks.doorOpen = variant })
				defer stop()
				time.Sleep(time.Second)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				published := make(chan error, 1)
				err := o.inWriter(ctx, func() error {
					go func() {
						_, err := o.Publish(ctx, note("x"), external)
						published <- err
					}()
					synctest.Wait()
					o.mu.Lock()
					defer o.mu.Unlock()
					return o.renumber(nil, nil)
				})
				if err != nil {
					t.Fatal(err)
				}
				err = <-published
				if lost := err != nil; lost != variant {
					t.Errorf("publish: %v", err)
				}
			})
		})
	}
}

// TestManyPublishersAndNewOrigins: answers get lost, batches too, and again and again the outbox takes a new origin, while many
// publish at once. Each event has one place, after its publisher's earlier ones.
func TestManyPublishersAndNewOrigins(t *testing.T) {
	t.Parallel()
	const publishers, each = 16, 30
	ring := newModelRing()
	chance := rand.New(rand.NewPCG(1, 2)) // the ring asks with its lock held
	ring.lose = func(Batch) bool { return chance.IntN(5) == 0 }
	ring.drop = func(Batch) bool { return chance.IntN(7) == 0 }
	o, _ := outboxAt(t, t.TempDir(), ring, func(p *OutboxOptions) { p.BatchEvents = 8 })
	done := make(chan struct{})
	var origins sync.WaitGroup
	origins.Go(func() {
		for range 20 {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
				o.mu.Lock()
				o.suspect = true
				o.mu.Unlock()
				o.AskAgain()
			}
		}
	})
	var group sync.WaitGroup
	for i := range publishers {
		group.Go(func() {
			for n := range each {
				p := external
				if i%4 == 0 {
					p.Key = fmt.Sprint(i, " ", n)
				}
				var err error
				if text := fmt.Sprintf("%02d %02d", i, n); i%2 == 0 {
					_, _, err = o.PublishWait(t.Context(), note(text), p)
				} else {
					_, err = o.Publish(t.Context(), note(text), p)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	close(done)
	origins.Wait()
	eventually(t, "placed", func() bool { s := o.Status(); return s.Acked == s.Last && len(ring.texts(t)) >= publishers*each })
	texts := ring.texts(t)
	var want []string
	for i := range publishers {
		for n := range each {
			want = append(want, fmt.Sprintf("%02d %02d", i, n))
		}
	}
	slices.SortStableFunc(texts, func(a, b string) int { return strings.Compare(a[:2], b[:2]) })
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Error(diff)
	}
}
