package leader

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/field"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

const (
	pullHold = 25 * time.Second // how long a pull that has nothing new is held open
	// excerptEvery bounds how often the excerpt is made anew while the state changes: events alone change nothing in it.
	excerptEvery = 250 * time.Millisecond
	pullPause    = 500 * time.Millisecond
)

// excerpt is the part of a state that edge nodes keep: settings, roster, revocations, assignments, switches and names, as
// a snapshot of the state (see package state) that lacks the other sections.
type excerpt struct {
	index uint64
	sum   [sha256.Size]byte // of everything but the index and the log's head, which change with every entry
	bytes []byte
}

// excerptMeta are the fields of the snapshot's section meta.
type excerptMeta struct {
	Index           uint64  `json:"index"`
	Generation      uint64  `json:"generation"`
	Commands        int     `json:"commands"`
	Term            uint64  `json:"term"`
	Coordinator     id.Node `json:"coordinator"`
	SettingsVersion uint64  `json:"settings_version"`
	LogSeq          uint64  `json:"log_seq"`
	LogHash         string  `json:"log_hash"`
	Counter         uint64  `json:"counter"`
}

func makeExcerpt(s *state.State) (excerpt, error) {
	settings, version := s.Settings()
	head := s.LogHead()
	m := excerptMeta{
		Index: s.Index(), Generation: s.Generation(), Commands: s.ActiveCommands(), Term: s.Term(), Coordinator: s.Coordinator(),
		SettingsVersion: version, LogSeq: head.Seq, LogHash: head.Hash.String(),
	}
	bearers := make(map[string]id.Node)
	for member := range s.Members() {
		if b, ok := s.MemberByName(member.Name); ok {
			bearers[member.Name] = b.ID
		}
	}
	var rest bytes.Buffer
	w := sectionWriter{&rest, nil}
	w.section("settings", func(yield func(string, any) bool) { yield("", settings) })
	w.section("members", keyed(s.Members(), func(m ring.Member) string { return string(m.ID) }))
	w.section("revoked", keyed(s.Revoked(), func(r ring.Revocation) string { return string(r.Node) }))
	w.section("assignments", keyed(s.Assignments(), func(a ring.Assignment) string { return a.Daemon }))
	w.section("off", func(yield func(string, any) bool) {
		for d := range s.DaemonsOff() {
			if !yield(d, true) {
				return
			}
		}
	})
	w.section("names", keyed(s.Names(), func(n ring.Name) string { return n.Key }))
	w.section("bearers", func(yield func(string, any) bool) {
		for _, name := range sortedKeys(bearers) {
			if !yield(name, bearers[name]) {
				return
			}
		}
	})
	stable := m
	stable.Index, stable.LogSeq, stable.LogHash = 0, 0, ""
	key, err := json.Marshal(stable)
	if err != nil || w.err != nil {
		return excerpt{}, fmt.Errorf("make excerpt: %w", firstError(err, w.err))
	}
	var all bytes.Buffer
	all.WriteString("ringagent-state 1\n")
	all.Write(binary.AppendUvarint(nil, 8))
	top := sectionWriter{&all, nil}
	top.section("meta", func(yield func(string, any) bool) { yield("", m) })
	all.Write(rest.Bytes())
	sum := sha256.Sum256(all.Bytes())
	all.Write(sum[:])
	return excerpt{s.Index(), sha256.Sum256(append(key, rest.Bytes()...)), all.Bytes()}, firstError(top.err)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func keyed[T any](seq iter.Seq[T], key func(T) string) iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		for v := range seq {
			if !yield(key(v), v) {
				return
			}
		}
	}
}

type sectionWriter struct {
	out *bytes.Buffer
	err error
}

func (w *sectionWriter) section(name string, rows iter.Seq2[string, any]) {
	var body []byte
	count := uint64(0)
	for k, v := range rows {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			w.err = firstError(w.err, fmt.Errorf("%s %q: %w", name, k, err))
			return
		}
		body = field.Append(body, k)
		body = field.Append(body, string(bytes.TrimSuffix(b.Bytes(), []byte("\n"))))
		count++
	}
	w.out.Write(field.Append(nil, name))
	w.out.Write(binary.AppendUvarint(nil, count))
	w.out.Write(body)
}

// excerpts keeps the newest excerpt for all who pull.
type excerpts struct {
	n    *Node
	mu   sync.Mutex
	made time.Time
	last excerpt
}

// now is the newest excerpt, at most excerptEvery old while the state changes.
func (e *excerpts) now() (excerpt, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.n.machine.View()
	if len(e.last.bytes) > 0 && (s.Index() == e.last.index || time.Since(e.made) < excerptEvery) {
		return e.last, nil
	}
	x, err := makeExcerpt(s)
	if err == nil {
		e.last, e.made = x, time.Now()
	}
	return x, err
}

// pullCall asks for the excerpt if it is another one than the caller's.
type pullCall struct {
	Sum []byte `json:"sum,omitempty"`
}

type pullAnswer struct {
	Coordinator id.Node `json:"coordinator,omitempty"`
	Sum         []byte  `json:"sum"`
	Snapshot    []byte  `json:"snapshot,omitempty"` // missing: nothing new
	// AgeMs is how old the copy is by its holder's own clock: the two clocks may differ.
	AgeMs int64 `json:"age_ms,omitempty"`
}

// mayServe says whether others should read this node's copy. One that hears no coordinator, or cannot keep up with it, says
// so, and they turn to another.
func (n *Node) mayServe() (Freshness, bool) {
	f := n.Freshness()
	if n.term.Load() == nil && (n.DiskBad() || time.Since(f.AsOf) > n.times().Lease) {
		return f, false
	}
	return f, f.Known && f.Coordinator != ""
}

// MayServe says that others should go by what this node has: a coordinator has confirmed it within a lease.
func (n *Node) MayServe() bool {
	_, ok := n.mayServe()
	return ok
}

// serveExcerpt answers at once with something new, or later with nothing.
func (n *Node) serveExcerpt(ctx context.Context, _ id.Node, in []byte) ([]byte, error) {
	var c pullCall
	if err := json.Unmarshal(in, &c); err != nil {
		return nil, fmt.Errorf("decode call: %w", err)
	}
	deadline := time.NewTimer(pullHold)
	defer deadline.Stop()
	again := time.NewTicker(n.times().Lease) // a copy that stands still rings no bell
	defer again.Stop()
	for held := false; ; {
		f, ok := n.mayServe()
		if !ok {
			return nil, ErrNoCoordinator
		}
		more := n.changed.wait()
		x, err := n.served.now()
		if err != nil {
			return nil, err
		}
		a := pullAnswer{Coordinator: f.Coordinator, Sum: x.sum[:], AgeMs: time.Since(f.AsOf).Milliseconds()}
		fresh := !bytes.Equal(x.sum[:], c.Sum)
		if fresh {
			a.Snapshot = x.bytes
		}
		if fresh || held {
			return json.Marshal(a)
		}
		select {
		case <-more:
			if !sleep(ctx, excerptEvery) {
				return nil, ctx.Err()
			}
		case <-deadline.C:
			held = true
		case <-again.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-n.ended:
			return nil, ErrNoCoordinator
		}
	}
}

// pulled is an edge node's knowledge of its copy.
type pulled struct {
	mu          sync.Mutex
	at          time.Time
	coordinator id.Node
}

func (p *pulled) last() (time.Time, id.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at, p.coordinator
}

// pull keeps an edge node's copy, from whichever core node answers.
func (n *Node) pull(ctx context.Context) {
	var sum []byte
	turn := 0
	for ctx.Err() == nil {
		seeds := n.finder.likely()
		if len(seeds) == 0 {
			sleep(ctx, pullPause)
			continue
		}
		next, err := n.pullFrom(ctx, seeds[turn%len(seeds)], sum)
		if err != nil {
			turn++
			sleep(ctx, pullPause)
			continue
		}
		sum = next
	}
}

func (n *Node) pullFrom(ctx context.Context, from id.Node, sum []byte) ([]byte, error) {
	a, s, err := n.askExcerpt(ctx, from, sum)
	if err != nil {
		return nil, err
	}
	if s != nil {
		// Core nodes may be behind each other: an older copy than ours is let go by.
		if now := n.machine.View(); s.Generation() < now.Generation() {
			return nil, fmt.Errorf("pull: %s is in generation %d of the ring, this node in %d", from, s.Generation(), now.Generation())
		} else if s.Generation() > now.Generation() || s.Generation() == now.Generation() && s.Index() > now.Index() {
			n.machine.Restore(s)
			n.changed.tell()
		}
	}
	n.copied.mu.Lock()
	if at := time.Now().Add(-time.Duration(max(0, a.AgeMs)) * time.Millisecond); at.After(n.copied.at) {
		n.copied.at = at
	}
	n.copied.coordinator = a.Coordinator
	n.copied.mu.Unlock()
	return a.Sum, nil
}

// askExcerpt asks a node for its excerpt; the state is nil if it has no other one than the sum's.
func (n *Node) askExcerpt(ctx context.Context, from id.Node, sum []byte) (a pullAnswer, s *state.State, err error) {
	ctx, cancel := context.WithTimeout(ctx, pullHold+callTimeout)
	defer cancel()
	in, err := json.Marshal(pullCall{sum})
	if err != nil {
		return a, nil, fmt.Errorf("encode call: %w", err)
	}
	b, err := n.cfg.Caller.CallRaw(ctx, from, methodPull, in)
	if err == nil {
		b, err = open1(b)
	}
	if err != nil {
		return a, nil, fmt.Errorf("pull: %w", err)
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, nil, fmt.Errorf("decode pull: %w", err)
	}
	if len(a.Snapshot) == 0 {
		return a, nil, nil
	}
	if s, err = state.ReadSnapshot(bytes.NewReader(a.Snapshot)); err != nil {
		return a, nil, fmt.Errorf("read pull: %w", err)
	}
	return a, s, nil
}

// Excerpt is what edge nodes keep of the state, as another node has it now. It changes nothing here; whether that node is to
// be believed is for the caller to say.
func (n *Node) Excerpt(ctx context.Context, from id.Node) (*state.State, error) {
	_, s, err := n.askExcerpt(ctx, from, nil)
	if err == nil && s == nil {
		err = fmt.Errorf("pull: %s sent nothing", from)
	}
	return s, err
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
