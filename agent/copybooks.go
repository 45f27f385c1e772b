package agent

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/transfer"
)

// maxBook bounds what is remembered of artifacts in each of the books below. A book that is full begins anew: what it held is
// found out again.
const maxBook = 16 << 10

// turns gives one at a time a turn with an artifact.
type turns struct {
	mu   sync.Mutex
	busy map[id.Digest]chan struct{} // closed when the turn ends
}

// take waits for the turn; end ends it.
func (t *turns) take(ctx context.Context, d id.Digest) (end func(), err error) {
	for {
		t.mu.Lock()
		if t.busy == nil {
			t.busy = map[id.Digest]chan struct{}{}
		}
		other, busy := t.busy[d]
		if !busy {
			mine := make(chan struct{})
			t.busy[d] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				delete(t.busy, d)
				t.mu.Unlock()
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// fileMark is how a file that has been hashed is known again.
type fileMark struct {
	device, inode uint64
	size          int64
	changed       time.Time
}

func markOf(path string) (fileMark, bool) {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return fileMark{}, false
	}
	m := fileMark{size: info.Size(), changed: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		m.device, m.inode = uint64(st.Dev), st.Ino //nolint:unconvert // signed elsewhere than on Linux
	}
	return m, true
}

// sound are the copies that have been hashed since the start.
type sound struct {
	mu  sync.Mutex
	all map[id.Digest]fileMark
}

func (s *sound) holds(path string, d id.Digest) bool {
	now, ok := markOf(path)
	s.mu.Lock()
	defer s.mu.Unlock()
	then, known := s.all[d]
	return ok && known && now == then
}

func (s *sound) note(d id.Digest, m fileMark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil || len(s.all) >= maxBook {
		s.all = map[id.Digest]fileMark{}
	}
	s.all[d] = m
}

func (s *sound) forget(d id.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, d)
}

// refused are artifacts whose bytes are no good, so that they are not fetched again only to be refused again.
type refused struct {
	mu  sync.Mutex
	all map[id.Digest]*unfit
}

func (r *refused) why(d id.Digest) (error, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	why, ok := r.all[d]
	return why, ok
}

func (r *refused) add(d id.Digest, why *unfit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil || len(r.all) >= maxBook {
		r.all = map[id.Digest]*unfit{}
	}
	// What made the error may be large and is not needed any more.
	r.all[d] = &unfit{kind: why.kind, err: errors.New(why.err.Error())}
}

// missedTries is how often a lost copy is asked for of holders that say that they have none.
const missedTries = 10

// missedWait is how long, at most, a lost copy is not asked for after nobody has answered.
const missedWait = time.Hour

// search is what was done to have a lost copy again.
type search struct {
	tries int           // that count
	wait  time.Duration // after the last one, if nobody answered
	due   time.Time     // the next one
}

// missed are copies that got lost here, with the attempts to have them again.
type missed struct {
	mu   sync.Mutex
	all  map[id.Digest]search
	ever map[id.Digest]time.Time // also those that are asked for no more, and when they were missed first
}

func (m *missed) add(d id.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil || len(m.all) >= maxBook {
		m.all = map[id.Digest]search{}
	}
	if m.ever == nil || len(m.ever) >= maxBook {
		m.ever = map[id.Digest]time.Time{}
	}
	m.all[d] = search{due: time.Now()}
	if _, ok := m.ever[d]; !ok {
		m.ever[d] = time.Now()
	}
}

// lost are all that were missed since the start, and when.
func (m *missed) lost() map[id.Digest]time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.ever)
}

// due are those that are to be asked for now, the one that has waited longest first.
func (m *missed) due() []id.Digest {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []id.Digest
	for d, s := range m.all {
		if !time.Now().Before(s.due) {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b id.Digest) int { return m.all[a].due.Compare(m.all[b].due) })
	return out
}

// round asks for those that are due, until a period is over: holders that are gone without a word take their time, one after the
// other, and receipts are compared no earlier than the next round. The others are the first ones then.
func (m *missed) round(ctx context.Context, every time.Duration, again func(context.Context, id.Digest) error) {
	begin := time.Now()
	for _, d := range m.due() {
		m.result(d, again(ctx, d), every)
		if ctx.Err() != nil || time.Since(begin) >= every {
			return
		}
	}
}

func (m *missed) tried(d id.Digest, done bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.all[d]
	if !ok {
		return
	}
	if s.tries++; done || s.tries >= missedTries {
		delete(m.all, d)
		return
	}
	s.wait, s.due = 0, time.Now()
	m.all[d] = s
}

// putOff has a copy wait for a period, or while nobody answers longer each time: it may be one of many whose holders are gone for good.
func (m *missed) putOff(d id.Digest, every time.Duration, longer bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.all[d]; ok {
		if !longer {
			s.wait = 0
		}
		s.wait = min(max(2*s.wait, every), missedWait)
		s.due = time.Now().Add(s.wait)
		m.all[d] = s
	}
}

// result takes note of how an attempt ended. One in which nobody answered who could know does not count: this node may be cut
// off for an hour, and the copy is wanted when that is over. It is asked for less and less often, from each period on.
func (m *missed) result(d id.Digest, err error, every time.Duration) {
	var bad *unfit
	done := err == nil || errors.As(err, &bad)
	if done || errors.Is(err, transfer.ErrNotHeld) || errors.Is(err, transfer.ErrLied) || errors.Is(err, errNotInRing) {
		m.tried(d, done)
	} else {
		m.putOff(d, every, !errors.Is(err, transfer.ErrBusy))
	}
}

// coming are the records of the artifacts that are arriving.
type coming struct {
	mu  sync.Mutex
	all map[id.Digest]ring.Artifact
}

func (c *coming) put(a ring.Artifact) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[id.Digest]ring.Artifact{}
	}
	c.all[a.Digest] = a
}

func (c *coming) of(d id.Digest) ring.Artifact {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[d]
}

func (c *coming) drop(d id.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, d)
}
