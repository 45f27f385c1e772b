package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
)

const testNode = id.Node("00112233445566aa")

var errLink = errors.New("link is down")

// modelRing stands for coordinator and state machine: it gives places by the rules of the contract, remembers everything,
// and can lose answers, delay them and change their order.
type modelRing struct {
	mu      sync.Mutex
	origins map[event.Origin]*modelOrigin
	log     []Encoded
	hash    event.Hash
	down    bool
	lose    func(b Batch) bool // the answer is lost after the batch was placed
	drop    func(b Batch) bool // the batch is lost
	fed     []*Replica
	altered int
	asked   int
}

type modelOrigin struct {
	drafts [][]byte // nil: lost
	hash   event.Hash
}

func newModelRing() *modelRing { return &modelRing{origins: map[event.Origin]*modelOrigin{}} }

func (m *modelRing) Append(_ context.Context, b Batch) <-chan Answer {
	ch := make(chan Answer, 1)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down || m.drop != nil && m.drop(b) {
		ch <- Answer{Err: errLink}
		return ch
	}
	a := m.place(b)
	if m.lose != nil && m.lose(b) {
		a = Answer{Err: errLink}
	}
	ch <- a
	return ch
}

func (m *modelRing) place(b Batch) Answer {
	o := m.origins[b.Origin]
	if o == nil {
		o = &modelOrigin{}
	}
	next := uint64(len(o.drafts)) + 1
	if b.First > next {
		return Answer{Next: next, Hash: o.hash}
	}
	for i, d := range b.Drafts {
		if n := b.first() + uint64(i); n < next && !bytes.Equal(o.drafts[n-1], d) {
			m.altered++
			return Answer{Next: next, Hash: o.hash, Altered: true}
		}
	}
	if b.Lost >= next {
		for uint64(len(o.drafts)) < b.Lost {
			o.drafts = append(o.drafts, nil)
		}
		o.hash = b.Before
		m.put(event.Record{Origin: b.Origin, Number: b.Lost, Marks: event.MarkLost, Draft: event.Draft{Type: "EVENTS_LOST", Node: b.Node}})
	} else if b.first() == next && b.Before != o.hash {
		m.altered++
		return Answer{Next: next, Hash: o.hash, Altered: true}
	}
	var seqs []uint64
	for i, d := range b.Drafts {
		if b.first()+uint64(i) < next {
			continue
		}
		draft, err := event.DecodeDraft(d)
		if err != nil {
			panic(err)
		}
		o.drafts = append(o.drafts, d)
		o.hash = o.hash.Next(d)
		seqs = append(seqs, m.put(event.Record{Origin: b.Origin, Number: uint64(len(o.drafts)), Draft: draft}))
	}
	m.origins[b.Origin] = o
	return Answer{Next: uint64(len(o.drafts)) + 1, Seqs: seqs, Hash: o.hash}
}

func (m *modelRing) put(r event.Record) uint64 {
	r.Seq = uint64(len(m.log)) + 1
	e := Chain(m.hash, []event.Record{r})
	m.hash = e[0].Hash
	m.log = append(m.log, e...)
	for _, r := range m.fed {
		r.Offer(e)
	}
	return r.Seq
}

func (m *modelRing) Origin(_ context.Context, o event.Origin) (OriginState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	if m.down {
		return OriginState{}, errLink
	}
	row, ok := m.origins[o]
	if !ok {
		return OriginState{Next: 1}, nil
	}
	return OriginState{Known: true, Next: uint64(len(row.drafts)) + 1, Hash: row.hash}, nil
}

// Near, Head and Fetch make the ring a source for replicas.
func (m *modelRing) Near(context.Context) ([]Puller, error) { return []Puller{m}, nil }

func (m *modelRing) Head(context.Context) (Head, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Head{uint64(len(m.log)), m.hash}, nil
}

func (m *modelRing) Fetch(_ context.Context, after uint64, limit int) ([]Encoded, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if after >= uint64(len(m.log)) {
		return nil, nil
	}
	rest := m.log[after:]
	return append([]Encoded(nil), rest[:min(limit, len(rest))]...), nil
}

// Find makes the ring its own finder, for tests without a replica.
func (m *modelRing) Find(_ context.Context, o event.Origin, from, to uint64) ([]event.Record, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []event.Record
	complete := false
	for _, e := range m.log {
		r, err := event.DecodeRecord(e.Bytes)
		if err != nil {
			return nil, false, err
		}
		if r.Origin == o {
			complete = complete || r.Number >= to
			if r.Number >= from && r.Number <= to {
				out = append(out, r)
			}
		}
	}
	return out, complete, nil
}

func (m *modelRing) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *modelRing) records(t testing.TB) []event.Record {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []event.Record
	for _, e := range m.log {
		r, err := event.DecodeRecord(e.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// texts are the notes in the order of the log.
func (m *modelRing) texts(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, r := range m.records(t) {
		if r.Marks == 0 {
			out = append(out, noteText(t, r))
		}
	}
	return out
}

func note(text string) event.Draft {
	p, err := event.OperatorNote.Make(event.Note{Subject: event.Subject{NodeID: testNode}, Text: text})
	if err != nil {
		panic(err)
	}
	return event.Draft{Type: "OPERATOR_NOTE", Payload: p}
}

func noteText(t testing.TB, r event.Record) string {
	t.Helper()
	n, err := event.OperatorNote.Read(r)
	if err != nil {
		t.Fatal(err)
	}
	return n.Text
}

// numbered are the texts prefix0, prefix1, …
func numbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return out
}

var external = PublishOptions{By: event.ByExternal}

// alarmList collects alarms.
type alarmList struct {
	mu   sync.Mutex
	list []Alarm
}

func (l *alarmList) add(a Alarm) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, a)
}

func (l *alarmList) has(k AlarmKind, over bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.list {
		if a.Kind == k && a.Over == over {
			return true
		}
	}
	return false
}

// outboxAt opens an outbox in dir against ring and runs it until the test ends or stop is called.
func outboxAt(t testing.TB, dir string, ring *modelRing, change func(*OutboxOptions)) (o *Outbox, stop func()) {
	t.Helper()
	opt := OutboxOptions{
		Path: filepath.Join(dir, "outbox.db"), Quarantine: filepath.Join(dir, "quarantine"), Node: testNode,
		Catalogue: event.Catalogue(), Sequencer: ring, Finder: ring, Log: zerolog.Nop(),
		MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond, FindTimeout: 2 * time.Second,
	}
	if change != nil {
		change(&opt)
	}
	o, err := OpenOutbox(opt)
	if err != nil {
		t.Fatal(err)
	}
	return o, start(t, o.Run)
}

// start runs f until the test ends or stop is called.
func start(t testing.TB, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func replicaAt(t testing.TB, dir string, src Sources, change func(*ReplicaOptions)) (r *Replica, stop func()) {
	t.Helper()
	opt := ReplicaOptions{
		Path: filepath.Join(dir, "events.db"), Quarantine: filepath.Join(dir, "quarantine"), Sources: src, Log: zerolog.New(zerolog.NewTestWriter(t)),
		PullEvery: 5 * time.Millisecond, RetainEvery: 10 * time.Millisecond,
	}
	if change != nil {
		change(&opt)
	}
	r, err := OpenReplica(opt)
	if err != nil {
		t.Fatal(err)
	}
	return r, start(t, r.Run)
}

func publishAll(t testing.TB, o *Outbox, texts []string) {
	t.Helper()
	for _, x := range texts {
		if _, err := o.Publish(t.Context(), note(x), external); err != nil {
			t.Fatal(err)
		}
	}
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(what)
		}
	}
}
