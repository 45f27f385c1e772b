package transfer

import (
	"context"
	"slices"
	"sync"

	"github.com/ringagent/ringagent/internal/id"
)

// lanes are a client's streams. One holder is read from by all but one of them at most: however slow it is, and whatever it claims
// to have, there is a stream for what others have.
type lanes struct {
	mu      sync.Mutex
	free    int
	each    int
	busy    map[id.Node]int
	waiting []*waiter // first come, first served
}

type waiter struct {
	from []id.Node
	got  chan id.Node
}

func newLanes(n int) *lanes {
	return &lanes{free: n, each: max(1, n-1), busy: make(map[id.Node]int)}
}

// take waits for a stream from one of the holders, the first that has one free. give gives it back.
func (l *lanes) take(ctx context.Context, from []id.Node) (id.Node, error) {
	l.mu.Lock()
	if node, ok := l.grant(from); ok { // nobody who waits could have it: it would have been given to them
		l.mu.Unlock()
		return node, nil
	}
	w := &waiter{slices.Clone(from), make(chan id.Node, 1)}
	l.waiting = append(l.waiting, w)
	l.mu.Unlock()
	select {
	case node := <-w.got:
		return node, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	i := slices.Index(l.waiting, w)
	if i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	l.mu.Unlock()
	if i < 0 { // it came at the same time
		l.give(<-w.got)
	}
	return "", ctx.Err()
}

// grant is called with mu held.
func (l *lanes) grant(from []id.Node) (id.Node, bool) {
	if l.free == 0 {
		return "", false
	}
	for _, node := range from {
		if l.busy[node] < l.each {
			l.free--
			l.busy[node]++
			return node, true
		}
	}
	return "", false
}

func (l *lanes) give(node id.Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free++
	if l.busy[node]--; l.busy[node] == 0 {
		delete(l.busy, node)
	}
	l.waiting = slices.DeleteFunc(l.waiting, func(w *waiter) bool {
		node, ok := l.grant(w.from)
		if ok {
			w.got <- node
		}
		return ok
	})
}
