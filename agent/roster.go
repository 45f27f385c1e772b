package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
	"github.com/ringagent/ringagent/mesh"
)

// rosterFile is the roster as this node last knew it. A copy on disk lets a node that starts admit its peers before it has
// heard a coordinator: without it, voters that restart together could not even vote.
type rosterFile struct {
	Generation uint64        `json:"generation,omitempty"`
	Index      uint64        `json:"index"`
	Members    []ring.Member `json:"members"`
	Revoked    []id.Node     `json:"revoked,omitempty"`
}

// newer says whether a state is newer than the copy. In a new generation of the ring the index may begin below the last one of
// the former.
func (f rosterFile) newer(s *state.State) bool {
	return cmp.Or(cmp.Compare(s.Generation(), f.Generation), cmp.Compare(s.Index(), f.Index)) > 0
}

// with is the same roster with m in it.
func (f rosterFile) with(m ring.Member) rosterFile {
	f.Members = slices.DeleteFunc(slices.Clone(f.Members), func(o ring.Member) bool { return o.ID == m.ID })
	f.Members = append(f.Members, m)
	return f
}

// roster answers the mesh from memory. It is replaced whole, so that readers never wait.
type roster struct {
	path string
	mu   sync.Mutex // of take
	copy atomic.Pointer[rosterIndex]
}

type rosterIndex struct {
	file  rosterFile
	nodes map[id.Node]mesh.Entry
	live  []id.Node
}

// errDamagedRoster is what openRoster says of a copy that is none.
var errDamagedRoster = errors.New("damaged")

func openRoster(path string) (*roster, error) {
	r := &roster{path: path}
	r.copy.Store(index(rosterFile{}))
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read roster copy: %w", err)
	}
	var f rosterFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("read roster copy %s: %w: %w", path, errDamagedRoster, err)
	}
	r.copy.Store(index(f))
	return r, nil
}

func index(f rosterFile) *rosterIndex {
	x := &rosterIndex{file: f, nodes: make(map[id.Node]mesh.Entry, len(f.Members))}
	for _, m := range f.Members {
		x.nodes[m.ID] = mesh.Entry{Key: id.Digest(m.KeyHash), Class: m.Class, Name: m.Name, Revoked: m.Revoked, Addresses: m.Addresses}
		if !m.Revoked {
			x.live = append(x.live, m.ID)
		}
	}
	for _, n := range f.Revoked {
		e := x.nodes[n]
		e.Revoked = true
		x.nodes[n] = e
		x.live = slices.DeleteFunc(x.live, func(o id.Node) bool { return o == n })
	}
	return x
}

// Lookup implements mesh.Roster.
func (r *roster) Lookup(n id.Node) (mesh.Entry, bool) {
	e, ok := r.copy.Load().nodes[n]
	return e, ok
}

// Nodes implements mesh.Roster.
func (r *roster) Nodes() []id.Node { return slices.Clone(r.copy.Load().live) }

// Loaded implements mesh.Roster.
func (r *roster) Loaded() bool { return len(r.copy.Load().file.Members) > 0 }

func (r *roster) file() rosterFile { return r.copy.Load().file }

// take replaces the copy by what a newer state says, keeps it on disk, and names the nodes that are shut out since. An older
// state, as a restarted node has it at first, changes nothing.
func (r *roster) take(s *state.State) (revoked []id.Node, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.copy.Load()
	if !old.file.newer(s) {
		return nil, nil
	}
	f := rosterFile{Generation: s.Generation(), Index: s.Index(), Members: slices.Collect(s.Members())}
	for x := range s.Revoked() {
		f.Revoked = append(f.Revoked, x.Node)
	}
	if len(f.Members) == 0 {
		return nil, nil
	}
	next := index(f)
	r.copy.Store(next)
	for n, e := range next.nodes {
		if e.Revoked && !old.nodes[n].Revoked {
			revoked = append(revoked, n)
		}
	}
	if rosterEqual(old.file, f) {
		return revoked, nil
	}
	return revoked, writeJSONFile(r.path, f)
}

// introduction is how long a node may take to say who belongs to the ring.
const introduction = 5 * time.Second

// joinAt joins through whoever answers at an address. A node that has lost its copy of the roster, and so takes nobody in, asks
// that one for it.
func (a *Agent) joinAt(ctx context.Context, address string) (id.Node, error) {
	p, err := a.mesh.JoinAt(ctx, address)
	if p.Node == "" || a.roster.Loaded() {
		return p.Node, err //nolint:wrapcheck // a *mesh.Error
	}
	return p.Node, errors.Join(err, a.introducedBy(ctx, p))
}

// introducedBy takes the roster from a core node, as a newcomer does when it enrols: the ring's certificate says that it is one,
// and nobody is called who does not admit this node. An edge node is a rented machine, and could name whom it likes.
func (a *Agent) introducedBy(ctx context.Context, p mesh.Peer) error {
	if p.Class != id.Core && !a.opts.Faults.AnyIntroducer {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, introduction)
	defer cancel()
	s, err := a.leader.Excerpt(ctx, p.Node)
	if err != nil {
		return fmt.Errorf("ask %s for the roster: %w", p.Node, decided(err))
	}
	if m, ok := s.Member(a.node.ID); !ok || m.Class != a.node.Class {
		return fmt.Errorf("ask %s for the roster: this node is not in it as it is", p.Node) // nobody else's roster would admit it
	}
	a.takeRoster(s)
	return nil
}

// takeRoster has the roster of a newer state admit peers from now on, and shuts out whom it has revoked.
func (a *Agent) takeRoster(s *state.State) {
	revoked, err := a.roster.take(s)
	if err != nil {
		a.log.Error().Err(err).Msg("roster copy not kept")
	}
	for _, n := range revoked {
		a.log.Warn().Str("peer", string(n)).Msg("node is revoked; its connections are closed")
		a.mesh.Revoke(n)
	}
	for _, m := range a.roster.file().Members {
		for _, addr := range m.Addresses {
			if m.ID != a.node.ID {
				a.mesh.AddAddress(m.ID, addr)
			}
		}
	}
}

// rosterEqual leaves the index out: a copy that says the same need not be written again.
func rosterEqual(a, b rosterFile) bool {
	a.Index, b.Index = 0, 0
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}
