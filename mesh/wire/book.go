package wire

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
)

const (
	maxAdvertised = 8
	maxObserved   = 2
	maxTold       = 8   // observed ones, with what others have told
	maxAddress    = 260 // a host name of 253 bytes, a colon and a port
	maxPeers      = 4096
)

// Book remembers under which addresses nodes were reached, across restarts. It is a hint: what it says is tried, and who
// answers is checked. Safe for concurrent use.
type Book struct {
	path string

	mu    sync.Mutex
	dirty bool
	peers map[id.Node]*page
	lost  map[id.Node]struct{} // no address of theirs answered at the last dial
}

// page is what the book knows of one node.
type page struct {
	Advertised []string  `json:"advertised,omitempty"`
	Observed   []string  `json:"observed,omitempty"`
	Good       string    `json:"good,omitempty"`
	Seen       time.Time `json:"seen"`
}

type bookFile struct {
	Version int               `json:"version"`
	Peers   map[id.Node]*page `json:"peers"`
}

// OpenBook reads the book at path; "" keeps it in memory. A file that is missing gives an empty book; one that cannot be
// understood gives an empty book and an error, since it holds only hints.
func OpenBook(path string) (*Book, error) {
	b := &Book{path: path, peers: make(map[id.Node]*page), lost: make(map[id.Node]struct{})}
	if path == "" {
		return b, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return b, fmt.Errorf("read known peers: %w", err)
	}
	var file bookFile
	if err := json.Unmarshal(text, &file); err != nil {
		return b, fmt.Errorf("read known peers: %w", err)
	}
	for node, p := range file.Peers {
		if _, err := id.ParseNode(string(node)); err != nil || p == nil {
			continue
		}
		p.Advertised = cleaned(p.Advertised, maxAdvertised)
		p.Observed = cleaned(p.Observed, maxObserved)
		p.Good = first(cleaned([]string{p.Good}, 1))
		b.peers[node] = p
	}
	return b, nil
}

// Save writes the book if it has changed.
func (b *Book) Save() error {
	b.mu.Lock()
	if !b.dirty || b.path == "" {
		b.mu.Unlock()
		return nil
	}
	text, err := json.MarshalIndent(bookFile{Version: 1, Peers: b.peers}, "", " ")
	b.dirty = false
	b.mu.Unlock()
	if err == nil {
		err = identity.WriteFile(b.path, text)
	}
	if err != nil {
		b.mu.Lock()
		b.dirty = true
		b.mu.Unlock()
		return fmt.Errorf("save known peers: %w", err)
	}
	return nil
}

// Add notes an address that an operator or the roster gave for a node.
func (b *Book) Add(node id.Node, address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.page(node)
	b.setAdvertised(p, append([]string{address}, p.Advertised...))
}

// Nodes lists the nodes in the book.
func (b *Book) Nodes() []id.Node {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]id.Node, 0, len(b.peers))
	for n := range b.peers {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// Forget removes a node.
func (b *Book) Forget(node id.Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.lost, node)
	if _, ok := b.peers[node]; ok {
		delete(b.peers, node)
		b.dirty = true
	}
}

// Address is the best known address of a node; "" if there is none.
func (b *Book) Address(node id.Node) string { return first(b.candidates(node, nil)) }

// heard notes what a node said about itself and where it came from. What it advertises replaces what it advertised.
func (b *Book) heard(node id.Node, advertised []string, observed string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.lost, node)
	p := b.page(node)
	b.setAdvertised(p, advertised)
	if next := cleaned(append([]string{observed}, p.Observed...), maxObserved); !slices.Equal(next, p.Observed) {
		p.Observed = next
		b.dirty = true
	}
}

// Told notes where another node has met this one, and says whether any of it is new.
func (b *Book) Told(node id.Node, addresses []string) bool {
	known := b.candidates(node, nil)
	addresses = slices.DeleteFunc(slices.Clone(addresses), func(a string) bool { return slices.Contains(known, a) })
	if addresses = cleaned(addresses, maxTold); len(addresses) == 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.page(node)
	p.Observed = cleaned(append(addresses, p.Observed...), maxTold)
	b.dirty = true
	return true
}

// unreachable notes that none of the node's addresses answered.
func (b *Book) unreachable(node id.Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost[node] = struct{}{}
}

func (b *Book) isLost(node id.Node) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, lost := b.lost[node]
	return lost
}

// good notes that address reached the node.
func (b *Book) good(node id.Node, address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.lost, node)
	p := b.page(node)
	p.Seen = time.Now().UTC().Truncate(time.Second)
	if p.Good != address {
		p.Good = address
		b.dirty = true
	}
}

// candidates are the node's addresses, best first: the last one that worked, what it advertises, what the roster says,
// where it was seen.
func (b *Book) candidates(node id.Node, hints []string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peers[node]
	if p == nil {
		return cleaned(hints, maxAdvertised)
	}
	all := slices.Concat([]string{p.Good}, p.Advertised, hints, p.Observed)
	return cleaned(all, 2*maxAdvertised)
}

func (b *Book) setAdvertised(p *page, advertised []string) {
	if next := cleaned(advertised, maxAdvertised); !slices.Equal(next, p.Advertised) {
		p.Advertised = next
		b.dirty = true
	}
}

// page finds or makes a node's page; a full book loses the one that was not reached for the longest time.
func (b *Book) page(node id.Node) *page {
	if p := b.peers[node]; p != nil {
		return p
	}
	if len(b.peers) >= maxPeers {
		oldest := slices.MinFunc(b.nodesLocked(), func(x, y id.Node) int {
			return cmp.Compare(b.peers[x].Seen.Unix(), b.peers[y].Seen.Unix())
		})
		delete(b.peers, oldest)
	}
	p := &page{}
	b.peers[node] = p
	b.dirty = true
	return p
}

func (b *Book) nodesLocked() []id.Node {
	out := make([]id.Node, 0, len(b.peers))
	for n := range b.peers {
		out = append(out, n)
	}
	return out
}

// cleaned drops what is no host:port and what was there before, and keeps at most limit.
func cleaned(addresses []string, limit int) []string {
	var out []string
	for _, a := range addresses {
		if len(out) == limit {
			break
		}
		host, port, err := net.SplitHostPort(a)
		if err != nil || host == "" || port == "" || len(a) > maxAddress || slices.Contains(out, a) {
			continue
		}
		out = append(out, a)
	}
	return out
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}
