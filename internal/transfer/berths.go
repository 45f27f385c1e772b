package transfer

import (
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// berths are a server's streams. A peer has a quarter of them, and more as long as half of them are free: what one peer reads, or
// does not read, never keeps the others from theirs.
type berths struct {
	mu     sync.Mutex
	all    int
	taken  int
	of     map[id.Node]int
	rests  map[id.Node]time.Time // until when one that was too slow gives way
	wanted time.Time             // when somebody last found none free
}

func newBerths(n int) *berths {
	return &berths{all: n, of: make(map[id.Node]int), rests: make(map[id.Node]time.Time)}
}

// take takes a stream for a peer, which free gives back.
func (b *berths) take(peer id.Node) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if until, ok := b.rests[peer]; ok {
		if now.Before(until) {
			return false
		}
		delete(b.rests, peer)
	}
	own := b.of[peer] < max(1, b.all/4)
	switch {
	case b.taken >= b.all:
		if own { // who has its share waits for nobody but itself
			b.wanted = now
		}
		return false
	case !own && b.taken >= b.all/2:
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

// rest makes a slow peer give way if others have lately found no stream. It may come back when they have had time to.
func (b *berths) rest(peer id.Node) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.wanted.IsZero() || now.Sub(b.wanted) > wantedFor {
		return false
	}
	for node, until := range b.rests {
		if !now.Before(until) {
			delete(b.rests, node)
		}
	}
	b.rests[peer] = now.Add(leastTurn)
	return true
}

// wantedFor is how long a peer that found no stream is thought to want one still: it asks again after a while, and a chunk of
// the slowest transfer takes four minutes.
const wantedFor = 5 * time.Minute
