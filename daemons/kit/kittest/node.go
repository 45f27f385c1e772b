package kittest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Node is one machine: its store and its daemons' local state survive when daemons end and start again.
type Node struct {
	ring.Member
	r *Ring

	dir   string
	disk  sync.Mutex // held while the store changes together with what is said of it; taken before mu and the ring's
	mu    sync.Mutex
	local map[string]map[string][]byte
	jobs  []kit.JobDB

	Released   []string           // jobs
	Held       int                // games for which Hold was called last; 0: it may play
	Adopting   bool               // the jobs of a former agent are still being taken over
	Quarantine map[string]string  // path → reason
	Gauges     map[string]float64 // name → value
	Health     kit.Health         // last report
	Sample     kit.Sample         // what Host.Sample answers
	PeerList   []kit.Peer
	Pings      map[id.Node]error
	Ticks      map[string]int // progress marks by daemon
	Fetches    map[id.Digest]int
	Books      []kit.DaemonProgress // what Daemons.Running answers
	Cancelled  []string             // by Daemons.Cancel

	// FetchFault is asked before a fetch order to this node does anything: an error fails it, and it may block.
	FetchFault func(ctx context.Context, d id.Digest) error
}

// AddNode enrols a live node.
func (r *Ring) AddNode(name string, class id.Class, slots ring.Slots) *Node {
	n := &Node{r: r, dir: filepath.Join(scratch(r.T), name), local: map[string]map[string][]byte{}, Quarantine: map[string]string{},
		Gauges: map[string]float64{}, Ticks: map[string]int{}, Fetches: map[id.Digest]int{}, Pings: map[id.Node]error{}}
	for _, sub := range []string{"games", "staging", "spool", "blobs", "quarantine"} {
		if err := os.MkdirAll(filepath.Join(n.dir, sub), 0o700); err != nil {
			r.T.Fatal(err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// Ids that follow the order of arrival keep failures of tests readable.
	node := id.Node(fmt.Sprintf("%016x", len(r.members)+1))
	n.Member = ring.Member{ID: node, Name: name, Class: class, Slots: slots, Boot: id.Boot("b" + string(node)[1:]), Status: ring.Alive,
		Enrolled: time.Now(), Since: time.Now()}
	r.nodes[node] = n
	r.members = append(r.members, n.Member)
	r.index++
	return n
}

// scratch is a folder for one test, in memory where there is one: what is tested here is not the disk, and fsync on a busy
// one takes most of the time.
func scratch(t testing.TB) string {
	const shm = "/dev/shm"
	if dir, err := os.MkdirTemp(shm, "kittest-*"); err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		return dir
	}
	return t.TempDir()
}

// Env is what a daemon of spec gets on n; for a singleton under a new epoch. Settings is its section.
func (n *Node) Env(spec kit.Spec, settings string) kit.Env {
	var epoch id.Epoch
	if spec.Scope == kit.ScopeCluster {
		epoch = n.r.Assign(spec.Name, n)
	}
	every, err := spec.Period(json.RawMessage(settings))
	if err != nil {
		n.r.T.Fatal(err)
	}
	return kit.Env{
		Self:     kit.Self{ID: n.ID, Name: n.Name, Class: n.Class, Boot: n.Boot},
		Log:      zerolog.New(testWriter{n.r}).With().Str("node", n.Name).Str("daemon", spec.Name).Logger(),
		Now:      time.Now,
		Every:    every,
		Settings: json.RawMessage(settings),
		Progress: func() { n.mu.Lock(); n.Ticks[spec.Name]++; n.mu.Unlock() },
		Trouble:  func(error) {},
		Gauge:    n.gauge,
		Events:   events{n.r, n, spec.Name, epoch},
		View:     views{n.r, spec.Name},
		Effects:  effects{n.r, n, spec.Name, epoch},
		Orders:   orders{n.r, n},
		Store:    store{n},
		Local:    local{n, spec.Name},
		Jobs:     jobs{n},
		Letters:  letters{n.r, n},
		Peers:    peers{n},
		Daemons:  books{n},
		Host:     host{n},
		Part: func(name string) (kit.Daemon, error) {
			return kit.Run(func(ctx context.Context) error { <-ctx.Done(); return nil }), nil
		},
		Dirs: kit.Dirs{Games: filepath.Join(n.dir, "games"), Staging: filepath.Join(n.dir, "staging"), Spool: filepath.Join(n.dir, "spool")},
	}
}

// Start runs a daemon on n until stop is called, which waits for its end and returns Run's error.
func (n *Node) Start(spec kit.Spec, settings string) (stop func() error) {
	n.r.T.Helper()
	d, err := spec.New(n.Env(spec, settings))
	if err != nil {
		n.r.T.Fatalf("new %s: %v", spec.Name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- kit.Guard(ctx, d.Run) }()
	var once sync.Once
	stop = func() error {
		once.Do(func() {
			cancel()
			err = <-done
		})
		return err
	}
	n.r.T.Cleanup(func() { _ = stop() })
	return stop
}

func (n *Node) gauge(name string, v float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if math.IsNaN(v) {
		delete(n.Gauges, name)
	} else {
		n.Gauges[name] = v
	}
}

// Gauge reads a figure that a daemon shows; ok is false if it shows none.
func (n *Node) Gauge(name string) (v float64, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	v, ok = n.Gauges[name]
	return v, ok
}

// SetJobs sets the job databases that live here.
func (n *Node) SetJobs(dbs ...kit.JobDB) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.jobs = dbs
}

// AddJob adds one.
func (n *Node) AddJob(db kit.JobDB) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.jobs = append(n.jobs, db)
}

// Progressed is how often a daemon has marked progress here.
func (n *Node) Progressed(daemon string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.Ticks[daemon]
}

// Dir is the node's data dir.
func (n *Node) Dir() string { return n.dir }

// Holds says whether the right bytes of d are on n's disk.
func (n *Node) Holds(d id.Digest) bool {
	_, ok := n.read(d)
	return ok
}

// read returns the bytes of d if the right ones are here.
func (n *Node) read(d id.Digest) ([]byte, bool) {
	b, err := os.ReadFile(n.blob(d))
	return b, err == nil && id.DigestOf(b) == d
}

// Damage flips a byte of a stored artifact.
func (n *Node) Damage(d id.Digest) {
	n.disk.Lock()
	defer n.disk.Unlock()
	b, err := os.ReadFile(n.blob(d))
	if err == nil {
		b[len(b)/2] ^= 0xff
		err = n.write(d, b)
	}
	if err != nil {
		n.r.T.Fatal(err)
	}
}

// Lose deletes a stored artifact behind everybody's back.
func (n *Node) Lose(d id.Digest) {
	n.disk.Lock()
	defer n.disk.Unlock()
	_ = os.Remove(n.blob(d))
}

func (n *Node) blob(d id.Digest) string { return filepath.Join(n.dir, "blobs", string(d)) }

func (n *Node) put(d id.Digest, b []byte) {
	if err := n.write(d, b); err != nil {
		n.r.T.Error(err)
	}
}

// write makes b appear as d, whole. Every call has a temporary file of its own: several may be storing the same bytes.
func (n *Node) write(d id.Digest, b []byte) error {
	f, err := os.CreateTemp(filepath.Join(n.dir, "blobs"), "*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), n.blob(d))
}

type testWriter struct{ r *Ring }

func (w testWriter) Write(b []byte) (int, error) {
	if os.Getenv("KITTEST_LOG") != "" {
		_, _ = os.Stderr.Write(b)
	}
	return len(b), nil
}

type views struct {
	r      *Ring
	daemon string
}

func (v views) Near() kit.View { return v.r.View(v.daemon) }

func (v views) Current(ctx context.Context, _ ...id.Digest) (kit.View, error) {
	if err := ctx.Err(); err != nil {
		return kit.View{}, err
	}
	v.r.mu.Lock()
	no := v.r.noQuorum
	v.r.mu.Unlock()
	if no {
		return kit.View{}, kit.ErrNoCoordinator
	}
	return v.r.View(v.daemon), nil
}

type orders struct {
	r    *Ring
	from *Node
}

func (o orders) Fetch(ctx context.Context, node id.Node, d id.Digest) error {
	o.r.mu.Lock()
	to := o.r.nodes[node]
	var holders []*Node
	for _, a := range o.r.artifacts {
		if a.Digest == d {
			for _, h := range a.Holders {
				holders = append(holders, o.r.nodes[h])
			}
		}
	}
	m, _ := find(o.r.members, func(m ring.Member) bool { return m.ID == node })
	o.r.mu.Unlock()
	if to == nil || !m.Live() {
		return fmt.Errorf("node %s is not reachable", node)
	}
	to.mu.Lock()
	fault := to.FetchFault
	to.mu.Unlock()
	if fault != nil {
		if err := fault(ctx, d); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// A copy and its receipt are one step: nobody drops the one between the two.
	to.disk.Lock()
	defer to.disk.Unlock()
	if !to.Holds(d) {
		b, ok := bytesOf(holders, d)
		if !ok {
			return fmt.Errorf("nobody holds %s", d.Short())
		}
		to.put(d, b)
		to.mu.Lock()
		to.Fetches[d]++
		to.mu.Unlock()
	}
	o.r.mu.Lock()
	defer o.r.mu.Unlock()
	return o.r.addReceipt(node, d)
}

// bytesOf reads the right bytes of d from the first of the holders that has them.
func bytesOf(holders []*Node, d id.Digest) ([]byte, bool) {
	for _, h := range holders {
		if h == nil {
			continue
		}
		if b, ok := h.read(d); ok {
			return b, true
		}
	}
	return nil, false
}

func (o orders) Ping(_ context.Context, node id.Node) (time.Duration, error) {
	o.from.mu.Lock()
	defer o.from.mu.Unlock()
	return time.Millisecond, o.from.Pings[node]
}

// Set changes the node's faked machine under its lock.
func (n *Node) Set(change func(*Node)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}
