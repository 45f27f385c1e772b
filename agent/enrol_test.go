package agent_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/mesh"
)

// An enrolment whose answer got lost has spent the token. The same key may ask again; another may not.
func TestLostEnrolmentCanBeAskedAgain(t *testing.T) {
	t.Parallel()
	r := agenttest.Prepare(t, agenttest.Options{Core: 1, Edge: 2, Specs: base()})
	c1, first, thief := r.Node("c1"), r.Node("e1"), r.Node("e2")
	c1.Enrol()
	c1.Start()
	token := r.Token(id.Edge)
	spent := func() bool {
		var ts api.Tokens
		err := c1.Client().Get(t.Context(), "/api/v1/tokens", nil, &ts)
		return err == nil && len(ts.Tokens) == 1 && ts.Tokens[0].Used == 1
	}
	first.Prepare()
	lossy := first.Enrolment(token)
	lossy.Network = deafWhen{lossy.Network, spent}
	if err := agent.Enrol(t.Context(), lossy); err == nil {
		t.Fatal("the enrolment whose answer was lost succeeded")
	}
	if !spent() {
		t.Fatal("the token is not spent: the test lost the question, not the answer")
	}
	if agent.Enrolled(first.Dir) {
		t.Error("a node without an answer takes itself for enrolled")
	}
	thief.Prepare()
	err := thief.EnrolWith(t.Context(), token)
	var refused *api.Error
	if !errors.As(err, &refused) || refused.Exit() != 9 {
		t.Errorf("another key with the spent token: %v, want exit code 9", err)
	}
	if err := first.EnrolWith(t.Context(), token); err != nil {
		t.Fatalf("the same key asks again: %v", err)
	}
	first.Start()
	mustNote(t, r, first, "I am in")
	var ms api.Members
	if err := c1.Client().Get(t.Context(), "/api/v1/members", nil, &ms); err != nil || len(ms.Members) != 2 {
		t.Errorf("members %+v, %v; want two", ms.Members, err)
	}
}

// TestNewcomerKnowsTheTiming from its enrolment on: what its first life is built with does not wait for a coordinator.
func TestNewcomerKnowsTheTiming(t *testing.T) {
	t.Parallel()
	for _, timing := range []ring.Timing{ring.TimingDev, ring.TimingWAN} {
		t.Run(string(timing), func(t *testing.T) {
			t.Parallel()
			r := agenttest.Prepare(t, agenttest.Options{Core: 2, Edge: 1, Specs: base(), Settings: func(s *ring.Settings) { s.Timing = timing }})
			r.Node("c1").Enrol()
			r.Node("c1").Start()
			for _, n := range r.Nodes()[1:] {
				n.Enrol()
				if got := agent.TimingAtStart(n.Dir); got != timing {
					t.Errorf("%s begins with timing %s", n.Name, got)
				}
			}
		})
	}
}

// TestNameOfAMachineThatIsGone: a wiped machine is back before the ring has noticed that it was gone, and waits for its name; one
// that takes the name of a machine that lives is refused all the same.
func TestNameOfAMachineThatIsGone(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 2, Specs: base()})
	e1, e2 := r.Node("e1"), r.Node("e2")
	e1.Wipe()
	e1.Prepare()
	waited := ""
	again := e1.Enrolment(r.Token(id.Edge))
	again.Waits = func(why string) { waited = why }
	if err := agent.Enrol(t.Context(), again); err != nil || !strings.Contains(waited, "e1") {
		t.Fatalf("under its old name: %v; waited for %q", err, waited)
	}
	e1.Wipe()
	e1.Prepare()
	thief := e1.Enrolment(r.Token(id.Edge))
	thief.Config.NodeName = e2.Name
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	err := agent.Enrol(ctx, thief)
	var refused *api.Error
	if !errors.As(err, &refused) || refused.Exit() != 8 {
		t.Errorf("under the name of another: %v, want exit code 8", err)
	}
}

// deafWhen is a network that hears nothing any more once deaf says so.
type deafWhen struct {
	mesh.Network
	deaf func() bool
}

// Dial implements mesh.Network.
func (d deafWhen) Dial(ctx context.Context, address string) (net.Conn, error) {
	c, err := d.Network.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return deafConn{c, d.deaf}, nil
}

type deafConn struct {
	net.Conn
	deaf func() bool
}

// Read implements net.Conn.
func (c deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.deaf() {
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}
