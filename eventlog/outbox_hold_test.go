package eventlog

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// held is a ring that answers only once it is told to, and says what has come.
type held struct {
	*modelRing
	mu      sync.Mutex
	batches []int
	waiting []func()
}

func (h *held) Append(ctx context.Context, b Batch) <-chan Answer {
	in, out := h.modelRing.Append(ctx, b), make(chan Answer, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.batches = append(h.batches, len(b.Drafts))
	h.waiting = append(h.waiting, func() { out <- <-in })
	return out
}

// answer answers n batches, the oldest first.
func (h *held) answer(n int) {
	h.mu.Lock()
	due := h.waiting[:n]
	h.waiting = h.waiting[n:]
	h.mu.Unlock()
	for _, answer := range due {
		answer()
	}
	synctest.Wait()
}

// answerAll answers until nothing is under way any more.
func (h *held) answerAll() {
	for {
		h.mu.Lock()
		n := len(h.waiting)
		h.mu.Unlock()
		if n == 0 {
			return
		}
		h.answer(n)
	}
}

func (h *held) came(t *testing.T, want ...int) {
	t.Helper()
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.batches, want) {
		t.Errorf("batches of %v, want %v", h.batches, want)
	}
}

// heldOutbox is an outbox at such a ring.
func heldOutbox(t *testing.T, change func(*OutboxOptions)) (*Outbox, *held, func()) {
	ring := &held{modelRing: newModelRing()}
	o, stop := outboxAt(t, t.TempDir(), ring.modelRing, func(p *OutboxOptions) {
		p.Sequencer = ring
		if change != nil {
			change(p)
		}
	})
	time.Sleep(time.Second) // the session has begun
	return o, ring, stop
}

func some(n int, size int) []string { return slices.Repeat([]string{strings.Repeat("x", size)}, n) }

// TestLittleWaitsForTheBatchUnderWay: what comes while a batch is under way goes with its answer, unless it is much, or the answer
// is long in coming.
func TestLittleWaitsForTheBatchUnderWay(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T, *Outbox, *held){
		"the answer comes": func(t *testing.T, o *Outbox, ring *held) {
			for range 5 {
				publishAll(t, o, some(1, 10))
				time.Sleep(time.Millisecond)
			}
			ring.came(t, 1)
			ring.answer(1)
			ring.came(t, 1, 5)
		},
		"the answer is long in coming": func(t *testing.T, o *Outbox, ring *held) {
			publishAll(t, o, some(1, 10))
			time.Sleep(holdTime - time.Millisecond)
			ring.came(t, 1)
			time.Sleep(time.Millisecond)
			ring.came(t, 1, 1)
			publishAll(t, o, some(1, 10)) // and the next one has a time of its own
			ring.came(t, 1, 1)
			time.Sleep(holdTime)
			ring.came(t, 1, 1, 1)
		},
		"many events": func(t *testing.T, o *Outbox, ring *held) {
			publishAll(t, o, some(holdEvents-2, 10))
			ring.came(t, 1)
			publishAll(t, o, some(1, 10))
			ring.came(t, 1, holdEvents-1)
		},
		"many bytes": func(t *testing.T, o *Outbox, ring *held) {
			publishAll(t, o, some(1, holdBytes/2))
			ring.came(t, 1)
			publishAll(t, o, some(1, holdBytes/2))
			ring.came(t, 1, 2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o, ring, stop := heldOutbox(t, nil)
				defer stop()
				publishAll(t, o, some(1, 10))
				ring.came(t, 1)
				test(t, o, ring)
				ring.answerAll()
			})
		})
	}
}

// TestSmallCommitsRest: while much is under way, a publisher who waits for the ring's answer costs no commit of his own; one who
// waits for the fsync alone has it at once.
func TestSmallCommitsRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		commits := 0
		o, ring, stop := heldOutbox(t, func(p *OutboxOptions) {
			p.hooks.committed = func() error {
				mu.Lock()
				defer mu.Unlock()
				commits++
				return nil
			}
		})
		defer stop()
		made := func() int {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			n := commits
			commits = 0
			return n
		}
		var group sync.WaitGroup
		waits := func(n int, every time.Duration) {
			for i := range n {
				time.Sleep(every)
				group.Go(func() {
					if _, _, err := o.PublishWait(t.Context(), note(fmt.Sprint("waits ", i)), external); err != nil {
						t.Error(err)
					}
				})
			}
		}
		waits(10, 700*time.Microsecond)
		few := made()
		publishAll(t, o, some(2*holdEvents, 10))
		made()
		waits(10, 700*time.Microsecond)
		many := made()
		time.Sleep(commitPause)
		began := time.Now()
		waits(1, 0)
		synctest.Wait()
		publishAll(t, o, some(1, 10))
		if took := time.Since(began); took > 0 {
			t.Errorf("an event that waits for its fsync alone took %s", took)
		}
		if few != 10 || many > 3 {
			t.Errorf("%d commits with little under way, want 10; %d with much, want at most 3", few, many)
		}
		ring.answerAll()
		group.Wait()
	})
}
