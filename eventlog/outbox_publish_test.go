package eventlog

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// TestContextEndsAsTheAnswerComes: who is told that an event is stored, or where it stands, hears it, though its context is over.
func TestContextEndsAsTheAnswerComes(t *testing.T) {
	t.Parallel()
	o, _ := outboxAt(t, t.TempDir(), newModelRing(), nil)
	for i, wait := range []bool{false, true} {
		u := &put{draft: note("x").Encode(), wait: wait, done: make(chan putResult, 1)}
		eventually(t, "numbered", func() bool { return o.enter(u) }) // once the outbox runs
		eventually(t, "told", func() bool { return len(u.done) == 1 })
		if r := o.leave(u, context.Canceled); r.err != nil || r.number != uint64(i)+1 || wait != (r.seq != 0) {
			t.Errorf("%+v", r)
		}
	}
}

// TestContextEndsDuringTheCommit: an event is accepted from its fsync on, and not only once the outbox comes to tell its publisher.
func TestContextEndsDuringTheCommit(t *testing.T) {
	t.Parallel()
	o, _ := outboxAt(t, t.TempDir(), newModelRing(), nil)
	publishAll(t, o, []string{"a"})
	for number, accepted := range map[uint64]bool{0: false, 1: true, 2: false} {
		r := o.leave(&put{place: place{o.Status().Origin, number}}, context.Canceled)
		if (r.err == nil) != accepted || (r.number != 0) != accepted {
			t.Errorf("number %d: %+v", number, r)
		}
	}
}

// TestClosedWhileWaiting: who waits for a place as the outbox ends is told that the event is accepted, and its id.
func TestClosedWhileWaiting(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	ring.down = true
	o, stop := outboxAt(t, t.TempDir(), ring, nil)
	result := make(chan error, 1)
	var id string
	go func() {
		var err error
		id, _, err = o.PublishWait(context.Background(), note("x"), external)
		result <- err
	}()
	eventually(t, "stored", func() bool { return o.Status().Last == 1 })
	stop()
	if err := <-result; !errors.Is(err, ErrClosed) || id == "" {
		t.Errorf("%q, %v", id, err)
	}
}

// TestThoseWhoLeftAreForgotten: while nobody coordinates, events wait in the file; who gave up waiting for their places holds no memory.
func TestThoseWhoLeftAreForgotten(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	ring.down = true
	o, _ := outboxAt(t, t.TempDir(), ring, nil)
	for i, key := range []string{"", "", "k", "k", "k"} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, _, err := o.PublishWait(ctx, note(strings.Repeat("x", 1000)), PublishOptions{By: external.By, Key: key})
			done <- err
		}()
		eventually(t, "waiting", func() bool {
			o.mu.Lock()
			defer o.mu.Unlock()
			return o.durable == min(uint64(i)+1, 3) && len(o.plain)+len(o.waiters) == 1
		})
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.plain)+len(o.waiters) != 0 {
		t.Errorf("%d and %d still wait", len(o.plain), len(o.waiters))
	}
}
