package kittest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Ring is the replicated state and the log.
type Ring struct {
	T  testing.TB
	mu sync.Mutex

	generation  uint64
	index       uint64
	settings    ring.Settings
	room        *kit.Room // nil: nobody knows
	joins       bool
	nodes       map[id.Node]*Node
	members     []ring.Member
	assignments map[string]ring.Assignment
	items       []ring.WorkItem
	buried      map[string]ring.WorkItem // by key: what is kept of those that finished long ago
	artifacts   []ring.Artifact
	names       map[string]ring.Name
	notes       map[string]map[string]json.RawMessage
	positions   map[string]uint64 // consumers of singletons

	log      []event.Record
	changed  chan struct{} // closed and replaced at every new record
	withheld map[event.Type]bool
	letters  []ring.DeadLetter
	handlers map[string]func(event.Record) error // by letter id

	read     map[string]readGames // by path
	noQuorum bool
	refused  []string // effects refused because of their epoch or their author, for tests to see
}

// New is an empty ring that trains configs.
func New(t testing.TB, configs ...id.Config) *Ring {
	return &Ring{
		T: t, settings: ring.Settings{Timing: ring.TimingDev, Voters: 3, Configs: configs},
		nodes: map[id.Node]*Node{}, assignments: map[string]ring.Assignment{}, names: map[string]ring.Name{},
		notes: map[string]map[string]json.RawMessage{}, positions: map[string]uint64{}, buried: map[string]ring.WorkItem{},
		changed: make(chan struct{}), withheld: map[event.Type]bool{}, handlers: map[string]func(event.Record) error{},
		read: map[string]readGames{},
	}
}

// Settings changes the ring settings.
func (r *Ring) Settings(change func(*ring.Settings)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.settings)
}

// Crowd says how much room the state has for artifacts.
func (r *Ring) Crowd(room kit.Room) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.room = &room
}

// Recover begins the next generation at an older place of the log, as a recovery by a node does that was behind: what came
// after it is forgotten.
func (r *Ring) Recover(index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.generation++
	r.index = index
	r.artifacts = slices.DeleteFunc(r.artifacts, func(a ring.Artifact) bool { return a.Seq > index })
}

// Quorum takes the coordinator away or gives it back.
func (r *Ring) Quorum(there bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noQuorum = !there
}

// Withhold makes events of these types vanish instead of being placed in the log.
func (r *Ring) Withhold(types ...event.Type) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range types {
		r.withheld[t] = true
	}
}

// Refused lists the effects that were refused because their epoch is over, or because they speak for another node.
func (r *Ring) Refused() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.refused)
}

// View reads the state as daemon sees it.
func (r *Ring) View(daemon string) kit.View {
	r.mu.Lock()
	defer r.mu.Unlock()
	notes := map[string]map[string]json.RawMessage{}
	for d, m := range r.notes {
		notes[d] = map[string]json.RawMessage{}
		for k, v := range m {
			notes[d][k] = v
		}
	}
	names := map[string]ring.Name{}
	for k, n := range r.names {
		names[k] = n
	}
	assignments := map[string]ring.Assignment{}
	for k, a := range r.assignments {
		assignments[k] = a
	}
	s := &snapshot{daemon: daemon, members: slices.Clone(r.members), items: slices.Clone(r.items), buried: maps.Clone(r.buried),
		artifacts: slices.Clone(r.artifacts), names: names, notes: notes, assignments: assignments}
	return kit.View{Generation: r.generation, Index: r.index, AsOf: time.Now(), Known: true, Fleet: s, Queue: s, Library: s, Notes: s, Ring: r.settings, Room: r.room, Joins: r.joins}
}

type snapshot struct {
	daemon      string
	members     []ring.Member
	items       []ring.WorkItem
	buried      map[string]ring.WorkItem
	artifacts   []ring.Artifact
	names       map[string]ring.Name
	notes       map[string]map[string]json.RawMessage
	assignments map[string]ring.Assignment
}

func (s *snapshot) Members() []ring.Member { return s.members }

func (s *snapshot) Member(n id.Node) (ring.Member, bool) {
	return find(s.members, func(m ring.Member) bool { return m.ID == n })
}

func (s *snapshot) Assignment(d string) (ring.Assignment, bool) {
	a, ok := s.assignments[d]
	return a, ok
}

func (s *snapshot) Items(workType string, c id.Config) []ring.WorkItem {
	return slices.DeleteFunc(slices.Clone(s.items), func(w ring.WorkItem) bool {
		return workType != "" && w.Type != workType || c != "" && w.Config != c
	})
}

func (s *snapshot) ByKey(key string) (ring.WorkItem, bool) {
	return byKey(s.items, s.buried, key)
}

func byKey(items []ring.WorkItem, buried map[string]ring.WorkItem, key string) (ring.WorkItem, bool) {
	if w, ok := find(items, func(w ring.WorkItem) bool { return w.Key == key }); ok {
		return w, true
	}
	w, ok := buried[key]
	return w, ok
}

func (s *snapshot) Item(workID string) (ring.WorkItem, bool) {
	return find(s.items, func(w ring.WorkItem) bool { return w.ID == workID })
}

func (s *snapshot) Artifacts(k ring.Kind, c id.Config) []ring.Artifact {
	return slices.DeleteFunc(slices.Clone(s.artifacts), func(a ring.Artifact) bool {
		list := a.Kind
		if a.Joined != "" || a.Labels[ring.LabelJoins] != "" {
			list = ring.ListJoined
		}
		return k != "" && list != k || c != "" && a.Config != c
	})
}

func (s *snapshot) Artifact(d id.Digest) (ring.Artifact, bool) {
	return find(s.artifacts, func(a ring.Artifact) bool { return a.Digest == d })
}

func (s *snapshot) Name(key string) (ring.Name, bool) { n, ok := s.names[key]; return n, ok }

func (s *snapshot) Note(key string) (json.RawMessage, bool) { return s.Of(s.daemon, key) }

func (s *snapshot) Of(daemon, key string) (json.RawMessage, bool) {
	v, ok := s.notes[daemon][key]
	return v, ok
}

func find[T any](list []T, ok func(T) bool) (T, bool) {
	if i := slices.IndexFunc(list, ok); i >= 0 {
		return list[i], true
	}
	var zero T
	return zero, false
}

// Assign gives a singleton to a node under a new epoch and returns it. Effects of older epochs are refused from now on.
func (r *Ring) Assign(daemon string, n *Node) id.Epoch {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index++
	e, err := id.NewEpoch(1, r.index)
	if err != nil {
		r.T.Fatal(err)
	}
	r.assignments[daemon] = ring.Assignment{Daemon: daemon, Node: n.ID, Boot: n.Boot, Epoch: e, Since: time.Now()}
	return e
}

// Work returns the items of a type ("" for all) as they stand.
func (r *Ring) Work(workType string) []ring.WorkItem { return r.View("").Queue.Items(workType, "") }

// Bury makes the state forget every finished item but for its key, as it does with all but the newest.
func (r *Ring) Bury() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items = slices.DeleteFunc(r.items, func(w ring.WorkItem) bool {
		if w.State.Finished() {
			r.buried[w.Key] = ring.WorkItem{ID: w.ID, Type: w.Type, Key: w.Key, State: w.State, Finished: w.Finished}
		}
		return w.State.Finished()
	})
	r.index++
}

// Artifacts returns the known artifacts of a kind ("" for all).
func (r *Ring) Artifacts(k ring.Kind) []ring.Artifact { return r.View("").Library.Artifacts(k, "") }

// Name returns a name as it stands.
func (r *Ring) Name(key string) (ring.Name, bool) { return r.View("").Library.Name(key) }

// AddArtifact makes bytes known whose only copies are on holders, and returns it. Content is what its hash is made of.
func (r *Ring) AddArtifact(k ring.Kind, c id.Config, content string, counters map[string]int64, parents []id.Digest, holders ...*Node) ring.Artifact {
	d := id.DigestOf([]byte(content))
	a := ring.Artifact{Digest: d, Kind: k, Config: c, Bytes: int64(len(content)), Created: time.Now(), Counters: counters, Parents: parents}
	for i, n := range holders {
		n.put(d, []byte(content))
		a.Holders = append(a.Holders, n.ID)
		if i == 0 {
			a.Origin = n.ID
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index++
	return r.addArtifact(a)
}

// addArtifact adds at the present index, as a command does with all that it brings.
func (r *Ring) addArtifact(a ring.Artifact) ring.Artifact {
	slices.Sort(a.Holders)
	for i, old := range r.artifacts {
		if old.Digest == a.Digest {
			holders := slices.Concat(old.Holders, a.Holders)
			slices.Sort(holders)
			old.Holders = slices.Compact(holders)
			r.artifacts[i] = r.receipted(old)
			return r.artifacts[i]
		}
	}
	a.Seq = r.index
	a = r.receipted(a)
	r.artifacts = append(r.artifacts, a)
	return a
}

func (r *Ring) receipted(a ring.Artifact) ring.Artifact {
	if a.Kind == ring.KindPack && !a.Safe {
		a.Safe = a.Receipted(slices.Values(r.members), r.settings.CopiesOf(a.Kind))
	}
	return a
}

func (r *Ring) addReceipt(n id.Node, d id.Digest) error {
	for i, a := range r.artifacts {
		if a.Digest == d {
			if !a.Held(n) {
				a.Holders = append(slices.Clone(a.Holders), n)
				slices.Sort(a.Holders)
				r.index++
				r.artifacts[i] = r.receipted(a)
			}
			return nil
		}
	}
	return fmt.Errorf("artifact %s is not known", d.Short())
}

func (r *Ring) addRepeat(p ring.Repeat) {
	for i, a := range r.artifacts {
		if a.Digest == p.Digest && a.Safe && p.Games > a.Counters[ring.CounterRepeats] {
			a.Counters = maps.Clone(a.Counters)
			a.Counters[ring.CounterRepeats] = min(p.Games, a.Counters[ring.CounterGames])
			r.index++
			r.artifacts[i] = a
		}
	}
}

func (r *Ring) dropReceipt(n id.Node, d id.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, a := range r.artifacts {
		if a.Digest == d && a.Held(n) {
			r.artifacts[i].Holders = slices.DeleteFunc(slices.Clone(a.Holders), func(h id.Node) bool { return h == n })
			r.index++
		}
	}
}

// SetStatus sets what the roster says of a node.
func (r *Ring) SetStatus(n *Node, s ring.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.members {
		if r.members[i].ID == n.ID {
			r.members[i].Status, r.members[i].Since = s, time.Now()
		}
	}
	r.index++
}

// Eventually polls until ok, within a limit of the bubble's time, and fails the test otherwise.
func (r *Ring) Eventually(limit time.Duration, what string, ok func() bool) {
	r.T.Helper()
	end := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(end) {
			var b strings.Builder
			for _, e := range r.Log() {
				fmt.Fprintf(&b, "\n%d %s %s %s", e.Seq, e.Daemon, e.Type, e.Payload)
			}
			r.T.Fatalf("%s: not within %v; the log:%s", what, limit, b.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}
