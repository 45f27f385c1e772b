package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/mesh"
)

// A node that has lost what it remembers of the others, but neither its certificate nor its seed, is a full member again, a voter
// too. One that was revoked meanwhile asks in vain.
func TestLostRosterIsLearnedFromTheSeed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		core    int
		edge    int
		revoked bool
		lose    func(*testing.T, *agenttest.Node)
	}{
		{"e1", 1, 1, false, loseHints},
		{"e1", 1, 1, false, cutHints},
		{"c2", 3, 0, false, loseHints},
		{"c2", 3, 0, false, cutHints},
		{"c1", 1, 0, false, cutHints},
		{"e1", 1, 1, true, loseHints},
	} {
		t.Run(fmt.Sprintf("%s of %d, revoked %v", c.name, c.core+c.edge, c.revoked), func(t *testing.T) {
			t.Parallel()
			calls := &callBook{by: c.name}
			r := agenttest.Start(t, agenttest.Options{Core: c.core, Edge: c.edge, Specs: base(), Agent: calls.watch})
			n, c1 := r.Node(c.name), r.Node("c1")
			mustNote(t, r, n, "before")
			n.Stop()
			c.lose(t, n)
			if c.revoked {
				r.Until("revocation", func(ctx context.Context) error {
					return c1.Client().Post(ctx, "/api/v1/force-leave", map[string]any{"node": c.name}, nil)
				})
				r.Until("c1 to admit it no more", func(context.Context) error {
					var kept struct{ Revoked []string }
					b, err := os.ReadFile(filepath.Join(c1.Dir, "roster.json"))
					if err = errors.Join(err, json.Unmarshal(b, &kept)); err == nil && len(kept.Revoked) == 0 {
						err = errors.New("not yet")
					}
					return err
				})
			}
			n.Start()
			if !c.revoked {
				mustNote(t, r, n, "after")
				r.Until("roster on its disk", func(context.Context) error {
					if !hasRoster(n) {
						return errors.New("not yet")
					}
					return nil
				})
				r.Settled()
				return
			}
			calls.until(r, c1.Address, 8)
			s := &setBack{t: t, n: n}
			if got := s.alarms(t.Context()); !slices.Contains(got, "revoked") || hasRoster(n) {
				t.Errorf("alarms %v, roster %v", got, hasRoster(n))
			}
			if _, err := note(t.Context(), n, "after", false); exitOf(err) != 9 {
				t.Errorf("note: %v", err)
			}
			if ls, err := lines(t.Context(), c1, "OPERATOR_NOTE"); err != nil || len(ls) != 1 {
				t.Errorf("%+v, %v", ls, err)
			}
		})
	}
}

// What an edge node says of who belongs to the ring is not believed: it may be a rented machine's. An operator names a core node.
func TestRosterIsNotLearnedFromAnEdgeNode(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]bool{"whole": false, "broken: believes anybody": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := &callBook{by: "e1"}
			r := agenttest.Start(t, agenttest.Options{
				Edge: 2, Specs: base(),
				Agent: func(name string, o *agent.Options) {
					calls.watch(name, o)
					o.Faults.AnyIntroducer = broken
				},
				Config: func(name string, c *config.Config) {
					if name == "e1" {
						c.Join = []string{"127.0.7.3:8770"} // of e2
					}
				},
			})
			c1, e1, e2 := r.Node("c1"), r.Node("e1"), r.Node("e2")
			e1.Stop()
			loseHints(t, e1)
			e1.Start()
			if broken {
				r.Until("a roster from e2", func(context.Context) error {
					if !hasRoster(e1) {
						return errors.New("none: the test shows nothing")
					}
					return nil
				})
				return
			}
			calls.until(r, e2.Address, 4)
			if hasRoster(e1) {
				t.Error("it has a roster, and only e2 can have said so")
			}
			r.Until("join", func(ctx context.Context) error {
				return e1.Client().Post(ctx, "/api/v1/join", map[string]any{"seeds": []string{c1.Address}}, nil)
			})
			mustNote(t, r, e1, "after")
		})
	}
}

// loseHints takes what a node at rest remembers of the others: only its config still names a seed.
func loseHints(t *testing.T, n *agenttest.Node) {
	t.Helper()
	for _, hint := range []string{"roster.json", "peers.json"} {
		if err := os.Remove(filepath.Join(n.Dir, hint)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// cutHints leaves half of each, as a disk may.
func cutHints(t *testing.T, n *agenttest.Node) {
	t.Helper()
	for _, hint := range []string{"roster.json", "peers.json"} {
		path := filepath.Join(n.Dir, hint)
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err = errors.Join(err, os.Truncate(path, st.Size()/2)); err != nil {
			t.Fatal(err)
		}
	}
}

func hasRoster(n *agenttest.Node) bool {
	_, err := os.Stat(filepath.Join(n.Dir, "roster.json"))
	return err == nil
}

// callBook counts whom a node has called in its present life.
type callBook struct {
	by string
	mu sync.Mutex
	to map[string]int
}

func (b *callBook) watch(name string, o *agent.Options) {
	if name != b.by {
		return
	}
	b.mu.Lock()
	b.to = make(map[string]int)
	b.mu.Unlock()
	o.Network = countedCalls{o.Network, b}
}

// until waits for so many calls of one address: where nothing must come of them, that is how long to look.
func (b *callBook) until(r *agenttest.Ring, address string, n int) {
	r.Until(fmt.Sprintf("%d calls of %s", n, address), func(context.Context) error {
		if b.calls(address) < n {
			return errors.New("fewer so far")
		}
		return nil
	})
}

func (b *callBook) calls(address string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.to[address]
}

type countedCalls struct {
	mesh.Network
	book *callBook
}

// Dial implements mesh.Network.
func (c countedCalls) Dial(ctx context.Context, address string) (net.Conn, error) {
	c.book.mu.Lock()
	c.book.to[address]++
	c.book.mu.Unlock()
	return c.Network.Dial(ctx, address) //nolint:wrapcheck // a test's
}
