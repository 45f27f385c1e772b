package kittest

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
)

type local struct {
	n      *Node
	daemon string
}

func (l local) Get(key string) ([]byte, bool, error) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	b, ok := l.n.local[l.daemon][key]
	return bytes.Clone(b), ok, nil
}

func (l local) Put(key string, value []byte) error {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	if l.n.local[l.daemon] == nil {
		l.n.local[l.daemon] = map[string][]byte{}
	}
	l.n.local[l.daemon][key] = bytes.Clone(value)
	return nil
}

func (l local) Delete(key string) error {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	delete(l.n.local[l.daemon], key)
	return nil
}

func (l local) Keys(prefix string) ([]string, error) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	keys := slices.Sorted(maps.Keys(l.n.local[l.daemon]))
	return slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, prefix) }), nil
}

type jobs struct{ n *Node }

func (j jobs) Databases() ([]kit.JobDB, bool) {
	j.n.mu.Lock()
	defer j.n.mu.Unlock()
	return slices.Clone(j.n.jobs), !j.n.Adopting
}

func (j jobs) Release(_ context.Context, jobID string) error {
	j.n.mu.Lock()
	defer j.n.mu.Unlock()
	j.n.jobs = slices.DeleteFunc(j.n.jobs, func(db kit.JobDB) bool { return db.JobID == jobID })
	j.n.Released = append(j.n.Released, jobID)
	return nil
}

func (j jobs) Hold(games int) {
	j.n.mu.Lock()
	defer j.n.mu.Unlock()
	j.n.Held = games
}

type peers struct{ n *Node }

func (p peers) Peers() []kit.Peer {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	return slices.Clone(p.n.PeerList)
}

type books struct{ n *Node }

func (b books) Running() []kit.DaemonProgress {
	b.n.mu.Lock()
	defer b.n.mu.Unlock()
	return slices.Clone(b.n.Books)
}

func (b books) Cancel(name, reason string) {
	b.n.mu.Lock()
	defer b.n.mu.Unlock()
	b.n.Cancelled = append(b.n.Cancelled, name)
}

type host struct{ n *Node }

func (h host) Sample(context.Context) kit.Sample {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	s := h.n.Sample
	s.At = time.Now()
	return s
}

func (h host) Report(v kit.Health) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.n.Health = v
}

// Fetched is how often the bytes of d really came to n.
func (n *Node) Fetched(d id.Digest) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.Fetches[d]
}

// Gone lists the jobs that were released on n.
func (n *Node) Gone() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.Released)
}
