package eventlog

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/ringagent/ringagent/eventlog/event"
)

type put struct {
	draft  []byte
	key    string
	digest [sha256.Size]byte // of what the key stands for
	wait   bool
	done   chan putResult // with room for one: a publisher is told once

	// Outbox.mu guards the rest.
	place  place
	seq    uint64 // if it is known before the own fsync
	stored bool
	left   bool // its publisher waits no longer
}

type putResult struct {
	place // "" and 0: not accepted
	seq   uint64
	err   error
}

// PublishOptions go with an event.
type PublishOptions struct {
	By event.Publisher // who publishes; required
	// Key, if not "", is at most MaxKeyBytes long: publishing again under it gives the same id and seq, as long as the record
	// is kept.
	Key string
}

// MaxKeyBytes is how long a key may be.
const MaxKeyBytes = 4 << 10

// Publish stores an event and returns its id once it is fsynced. Its place in the log follows by itself, and from then on the id is
// final: an event that waits for it while a new origin begins (doc.go) gets another id.
func (o *Outbox) Publish(ctx context.Context, d event.Draft, p PublishOptions) (string, error) {
	r, err := o.publish(ctx, d, p, false)
	if err != nil {
		return "", err
	}
	return event.MakeID(r.origin, r.number), nil
}

// PublishWait is Publish and then waits for the event's place in the log. When ctx or the outbox ends before, the error says so
// and the id tells that the event was accepted here all the same, unless it is "".
func (o *Outbox) PublishWait(ctx context.Context, d event.Draft, p PublishOptions) (string, uint64, error) {
	r, err := o.publish(ctx, d, p, true)
	if r.number == 0 {
		return "", 0, err
	}
	return event.MakeID(r.origin, r.number), r.seq, err
}

func (o *Outbox) publish(ctx context.Context, d event.Draft, p PublishOptions, wait bool) (putResult, error) {
	if err := ctx.Err(); err != nil {
		return putResult{}, fmt.Errorf("publish %s: %w", d.Type, err)
	}
	if d.Node == "" {
		d.Node = o.opt.Node
	}
	if len(p.Key) > MaxKeyBytes {
		return putResult{}, &event.ProblemError{
			Type: string(d.Type), Field: "key", Kind: event.ErrInvalid, Detail: fmt.Sprintf("it has %d bytes, the limit is %d", len(p.Key), MaxKeyBytes),
		}
	}
	d, err := o.opt.Catalogue.Prepare(d, p.By)
	if err != nil {
		return putResult{}, err
	}
	if d.Time.IsZero() {
		d.Time = o.opt.Now()
	}
	u := &put{draft: d.Encode(), key: p.Key, wait: wait, done: make(chan putResult, 1)}
	if p.Key != "" {
		u.digest = keyDigest(d)
	}
	if !o.enter(u) {
		select {
		case o.puts <- u:
		case <-ctx.Done():
			return putResult{}, fmt.Errorf("publish %s: %w", d.Type, ctx.Err())
		case <-o.closed:
			return putResult{}, ErrClosed
		}
	}
	var r putResult
	select {
	case r = <-u.done:
	case <-ctx.Done():
		r = o.leave(u, ctx.Err())
	case <-o.closed:
		r = o.leave(u, ErrClosed)
	}
	switch {
	case r.err == nil:
		return r, nil
	case r.number != 0:
		return r, fmt.Errorf("wait for the place of %s: %w", event.MakeID(r.origin, r.number), r.err)
	}
	return r, fmt.Errorf("publish %s: %w", d.Type, r.err)
}

// keyDigest is what a key stands for: the same event stated at another time has it, too.
func keyDigest(d event.Draft) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s", d.Type, d.Daemon, d.Payload))
}

// leave is what becomes of a put whose publisher waits no longer, for the reason why: what it was told in this very moment; or its
// place, if it is stored, which is all that was asked for if it did not want the seq. Nobody keeps it to tell it more.
func (o *Outbox) leave(u *put, why error) putResult {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case r := <-u.done:
		return r
	default:
	}
	u.left = true
	o.forget(u)
	switch accepted := u.stored || u.place.origin == o.origin && u.place.number != 0 && u.place.number <= o.durable; {
	case !accepted:
		return putResult{err: why}
	case !u.wait:
		return putResult{place: u.place}
	}
	return putResult{place: u.place, err: why}
}

// forget has nobody tell u its seq any more. The caller holds mu.
func (o *Outbox) forget(u *put) {
	if o.plain[u.place.number] == u {
		delete(o.plain, u.place.number)
		return
	}
	if us := slices.DeleteFunc(o.waiters[u.place], func(w *put) bool { return w == u }); len(us) > 0 {
		o.waiters[u.place] = us
	} else {
		delete(o.waiters, u.place)
	}
}
