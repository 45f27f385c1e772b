package wire

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/internal/id"
)

// TestLostNodes: a node is lost from the dial at which nobody answers, or somebody else, until it is heard or reached again.
func TestLostNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		server := w.serve(w.certify(id.Core, nil), "10.0.0.1", w.roster, Limits{})
		other := w.serve(w.certify(id.Core, nil), "10.0.0.2", w.roster, Limits{})
		caller := w.serve(w.certify(id.Edge, nil), "10.0.0.3", w.roster, Limits{})
		book := caller.end.cfg.Book
		lost := func(want bool, when string) {
			t.Helper()
			if got := len(caller.end.Lost([]id.Node{server.node})) == 1; got != want {
				t.Errorf("lost %t %s", got, when)
			}
		}
		lost(true, "without an address")
		must(t, caller.reach(server, RPC))
		lost(false, "once reached")
		w.net.Block(caller.host, server.host)
		if err := caller.reach(server, RPC); err == nil {
			t.Error("reached through a partition")
		}
		lost(true, "while nobody answers")
		if book.Told(server.node, []string{server.addr, "nonsense"}) {
			t.Error("what was known is news")
		}
		if !book.Told(server.node, []string{other.addr}) {
			t.Error("another address is no news")
		}
		if diff := cmp.Diff(caller.end.Whereabouts(server.node), []string{server.addr, other.addr}); diff != "" {
			t.Error(diff)
		}
		if err := caller.reach(server, RPC); err == nil {
			t.Error("reached another node's address")
		}
		lost(true, "while another node answers")
		w.net.Unblock(caller.host, server.host)
		<-time.After(time.Second)
		must(t, server.reach(caller, RPC))
		lost(false, "once heard")
		book.Forget(server.node)
		lost(true, "once forgotten")
	})
}
