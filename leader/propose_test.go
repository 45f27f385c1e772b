package leader

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/leader/state"
)

// Whoever comes when a term has just ended finds its queue open still. Nobody looks into it any more: it must not be waited
// for an answer.
func TestNothingIsQueuedAfterATerm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := bare(Ports{})
		ctx, cancel := context.WithCancel(t.Context())
		term := &term{
			n: n, ctx: ctx, cancel: cancel,
			proposals: make(chan *proposal, queueLength), proposalsEnded: make(chan struct{}),
			batches: make(chan *batchProposal, queueLength), batchesEnded: make(chan struct{}),
		}
		term.start()
		cancel()
		term.wg.Wait()
		began := time.Now()
		limited, stop := context.WithTimeout(t.Context(), proposeLimit)
		defer stop()
		for range 64 { // a select among what is ready draws
			if _, err := term.submit(limited, nil); !errors.Is(err, ErrNoCoordinator) || errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("a command: %v", err)
			}
			if _, err := term.place(limited, state.EventBatch{}); !errors.Is(err, ErrNoCoordinator) || errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("events: %v", err)
			}
			if t.Failed() {
				break
			}
		}
		if d := time.Since(began); d > 0 {
			t.Errorf("waited for %s", d)
		}
	})
}

// What Raft has taken is waited for, also when the term has ended.
func TestReplyWaitsForWhatWasTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		close(ended)
		taken, done := true, make(chan int, 1)
		time.AfterFunc(time.Second, func() { done <- 7 })
		if got, err := reply(t.Context(), done, ended, &taken); got != 7 || err != nil {
			t.Fatalf("got %d, %v", got, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := reply(ctx, done, ended, &taken); !errors.Is(err, ErrUnknownOutcome) {
			t.Fatalf("without an answer: %v", err)
		}
	})
}
