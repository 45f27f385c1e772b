package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/eventlog/event"
)

// An edge node's outbox is set back to an older copy of itself, as a restored disk or a cloned machine does it. What the
// ring placed after the copy stays there once, and nothing that is published afterwards is taken for it.
func TestOutboxSetBackLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Edge: 1, Specs: base()})
	s := &setBack{t: t, r: r, n: r.Node("e1")}
	s.publish("before", 5)
	s.keep()
	s.publish("after", 5)
	s.putBack()
	s.n.Start()
	s.publish("fresh", 5)
	s.placedOnce()
}

// The node is cut off when it starts on the older copy, so that it gives numbers to new events which the ring has under
// others. They are placed all the same, the ring's stay, and the node says that its outbox is not what it was.
func TestOutboxSetBackUnderUsedNumbersIsSaid(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Edge: 1, Specs: base()})
	s := &setBack{t: t, r: r, n: r.Node("e1")}
	s.publish("before", 5)
	s.keep()
	s.publish("after", 5)
	if got := s.alarms(t.Context()); slices.Contains(got, "outbox_altered") {
		t.Fatalf("alarms %v before anything was set back", got)
	}
	s.putBack()
	r.Partition(s.n.Name)
	s.n.Start()
	s.leave("fresh", 8) // more than stand in the log under these numbers
	r.Heal()
	s.publish("healed", 2)
	s.placedOnce()
	r.Until("the alarm", func(ctx context.Context) error {
		if got := s.alarms(ctx); !slices.Contains(got, "outbox_altered") {
			return fmt.Errorf("alarms %v", got)
		}
		return nil
	})
}

// The older copy still has to send what the ring has placed since: it sends all of it again.
func TestOutboxSetBackBeforeItWasSent(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Edge: 1, Specs: base()})
	s := &setBack{t: t, r: r, n: r.Node("e1")}
	s.publish("before", 3)
	r.Partition(s.n.Name)
	s.leave("unsent", 6)
	s.keep()
	r.Heal()
	s.publish("after", 3)
	s.placedOnce()
	s.putBack()
	s.n.Start()
	s.publish("fresh", 3)
	s.placedOnce()
}

// setBack is a node whose outbox is set back, with the notes that it has published.
type setBack struct {
	t    *testing.T
	r    *agenttest.Ring
	n    *agenttest.Node
	copy []byte
	want []string
}

func (s *setBack) publish(prefix string, n int) {
	s.t.Helper()
	for i := range n {
		text := fmt.Sprintf("%s-%d", prefix, i)
		mustNote(s.t, s.r, s.n, text)
		s.want = append(s.want, text)
	}
}

// leave publishes on a node that is cut off.
func (s *setBack) leave(prefix string, n int) {
	s.t.Helper()
	for i := range n {
		text := fmt.Sprintf("%s-%d", prefix, i)
		if p, err := note(s.t.Context(), s.n, text, false); err != nil || p.Seq != nil {
			s.t.Fatalf("note %s while cut off: %+v, %v", text, p, err)
		}
		s.want = append(s.want, text)
	}
}

func (s *setBack) file() string { return filepath.Join(s.n.Dir, "outbox.db") }

// keep copies the outbox of the node at rest, and has it go on.
func (s *setBack) keep() {
	s.t.Helper()
	s.n.Stop()
	var err error
	if s.copy, err = os.ReadFile(s.file()); err != nil {
		s.t.Fatal(err)
	}
	s.n.Start()
}

// putBack stops the node and gives it the copy.
func (s *setBack) putBack() {
	s.t.Helper()
	s.n.Stop()
	if err := os.WriteFile(s.file(), s.copy, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// placedOnce waits until every note stands in every replica, and fails if one stands there twice.
func (s *setBack) placedOnce() {
	s.t.Helper()
	for _, n := range s.r.Nodes() {
		s.r.Until("every note once on "+n.Name, func(ctx context.Context) error {
			ls, err := lines(ctx, n, "OPERATOR_NOTE")
			if err != nil {
				return err
			}
			got := map[string]int{}
			for _, l := range ls {
				text := textOf(event.Record{Draft: event.Draft{Payload: l.Payload}})
				if got[text]++; got[text] > 1 {
					s.t.Fatalf("%s has note %s twice", n.Name, text)
				}
			}
			var missing []string
			for _, text := range s.want {
				if got[text] == 0 {
					missing = append(missing, text)
				}
			}
			if len(missing) > 0 {
				return fmt.Errorf("missing %v", missing)
			}
			if len(got) != len(s.want) {
				return errors.New("notes that nobody published")
			}
			return nil
		})
		if lost, err := lines(s.t.Context(), n, "EVENTS_LOST"); err != nil || len(lost) != 0 {
			s.t.Errorf("losses stated on %s: %+v, %v", n.Name, lost, err)
		}
	}
}

func (s *setBack) alarms(ctx context.Context) []string {
	s.t.Helper()
	var st api.Status
	if err := s.n.Client().Get(ctx, "/api/v1/status", nil, &st); err != nil {
		s.t.Fatalf("status of %s: %v", s.n.Name, err)
	}
	var out []string
	for _, a := range st.Alarms {
		out = append(out, a.Code)
	}
	return out
}
