package transfer

import (
	"sync"

	"github.com/ringagent/ringagent/internal/id"
)

// berths are a server's streams. A peer has a quarter of them, and more as long as half of them are free: what one peer reads, or
// does not read, never keeps the others from theirs.
type berths struct {
	mu    sync.Mutex
	all   int
	taken int
	of    map[id.Node]int
}

func newBerths(n int) *berths {
	return &berths{all: n, of: make(map[id.Node]int)}
}

// take takes a stream for a peer, which free gives back.
func (b *berths) take(peer id.Node) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	own := b.of[peer] < max(1, b.all/4)
	if b.taken >= b.all || !own && b.taken >= b.all/2 {
		return false
	}
	b.taken++
	b.of[peer]++
	return true
}

func (b *berths) free(peer id.Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken--
	if b.of[peer]--; b.of[peer] == 0 {
		delete(b.of, peer)
	}
}
