package eventlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
)

// Start says where a tail begins. The zero value is the start of what is kept.
type Start struct {
	kind  startKind
	after uint64
	since time.Time
}

type startKind int

const (
	startBeginning startKind = iota
	startAfter
	startSince
	startNow
)

// FromStart begins with the oldest record that is kept.
func FromStart() Start { return Start{} }

// After begins with the record that follows seq.
func After(seq uint64) Start { return Start{kind: startAfter, after: seq} }

// Since begins with the first record whose time is not before t. Times come from many clocks; order is seq.
func Since(t time.Time) Start { return Start{kind: startSince, since: t} }

// Now begins with the next record.
func Now() Start { return Start{kind: startNow} }

// Filter chooses records. Empty fields let everything through.
type Filter struct {
	Types []string // globs over canonical names, e.g. WORK_*; old names are understood when they have no wildcard
	Node  id.Node  // who stated it
	// SkipStale leaves out records that carried an older epoch than their daemon's.
	SkipStale bool
}

// matcher is a compiled filter.
type matcher struct {
	globs []string
	exact map[event.Type]bool
	f     Filter
}

// ErrBadFilter says that a type glob is malformed.
var ErrBadFilter = errors.New("malformed event type pattern")

func compile(f Filter) (matcher, error) {
	m := matcher{f: f, exact: map[event.Type]bool{}}
	for _, g := range f.Types {
		if t, ok := event.Catalogue().Canonical(g); ok {
			m.exact[t] = true
			continue
		}
		g = strings.ToUpper(g)
		if _, err := path.Match(g, ""); err != nil {
			return m, fmt.Errorf("%w %q", ErrBadFilter, g)
		}
		m.globs = append(m.globs, g)
	}
	return m, nil
}

func (m matcher) match(r *event.Record) bool {
	if m.f.Node != "" && r.Node != m.f.Node || m.f.SkipStale && r.Stale() {
		return false
	}
	if len(m.f.Types) == 0 || m.exact[r.Type] {
		return true
	}
	return slices.ContainsFunc(m.globs, func(g string) bool {
		ok, _ := path.Match(g, string(r.Type))
		return ok
	})
}

// Tail yields the records that pass the filter, in order. Without follow it ends at the end that the log had when it was
// asked. A gap is yielded as a *Compacted beside an empty record, and the tail goes on behind it if the caller does; any
// other error ends the tail. It holds no transaction while the caller works.
func (r *Replica) Tail(ctx context.Context, from Start, f Filter, follow bool) iter.Seq2[event.Record, error] {
	return func(yield func(event.Record, error) bool) {
		m, err := compile(f)
		if err != nil {
			yield(event.Record{}, err)
			return
		}
		after, err := r.position(ctx, from)
		if err != nil {
			yield(event.Record{}, err)
			return
		}
		end := r.Durable()
		for {
			r.mu.Lock()
			changed := r.changed
			r.mu.Unlock()
			records, more, err := r.read(after, readMost, m.match)
			if gap := (*Compacted)(nil); errors.As(err, &gap) {
				if !yield(event.Record{}, gap) {
					return
				}
				after = gap.To
				continue
			}
			if err == nil {
				err = ctx.Err()
			}
			if follow && errors.Is(err, errReopening) {
				select {
				case <-changed: // at the latest when it is open again
					continue
				case <-r.stopped:
					continue // the next look says so
				case <-ctx.Done():
					err = ctx.Err()
				}
			}
			if err != nil {
				yield(event.Record{}, err)
				return
			}
			for i := range records {
				if !follow && records[i].Seq > end {
					return
				}
				after = records[i].Seq
				if m.match(&records[i]) && !yield(records[i], nil) {
					return
				}
			}
			if more || len(records) > 0 {
				continue
			}
			if !follow {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
			case <-r.stopped:
				yield(event.Record{}, ErrClosed)
				return
			}
		}
	}
}

// position is the seq after which a tail begins.
func (r *Replica) position(ctx context.Context, from Start) (uint64, error) {
	r.mu.Lock()
	head := r.head
	r.mu.Unlock()
	switch from.kind {
	case startAfter:
		return from.after, nil
	case startNow:
		return head.Last, nil
	case startSince:
		return r.firstSince(ctx, from.since)
	}
	return head.Cut, nil
}

// clockSlack is how far the clocks of a ring's nodes are taken to differ at most, when looking for a time.
const clockSlack = 10 * time.Minute

// firstSince finds the seq before the first record that is not older than t: by halving to a point that is well before t,
// whatever the clocks say, and from there one by one.
func (r *Replica) firstSince(ctx context.Context, t time.Time) (uint64, error) {
	r.mu.Lock()
	low, high := r.head.Cut, r.head.Last
	r.mu.Unlock()
	for high-low > readMost {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		mid := low + (high-low)/2
		rec, err := r.Read(mid, 1)
		if gap := (*Compacted)(nil); errors.As(err, &gap) {
			low = max(gap.To, low)
			high = max(high, low)
			continue
		}
		if err != nil || len(rec) == 0 {
			return low, err
		}
		if rec[0].Time.Before(t.Add(-clockSlack)) {
			low = mid
		} else {
			high = mid
		}
	}
	for after := low; ; {
		records, more, err := r.read(after, readMost, func(*event.Record) bool { return false })
		if gap := (*Compacted)(nil); errors.As(err, &gap) {
			after = gap.To
			continue
		}
		if err != nil {
			return 0, err
		}
		for _, rec := range records {
			if !rec.Time.Before(t) {
				return rec.Seq - 1, nil
			}
			after = rec.Seq
		}
		if len(records) == 0 && !more {
			return after, nil
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
}
