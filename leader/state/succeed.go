package state

import (
	"errors"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// Succeed makes of the state the first one of a new generation, in which the lost nodes are shut out for good: what Raise and
// a Revoke of each would do, but without an entry. It is for a recovery, which begins the log anew behind the state that it
// found; nothing of it can be told as an event, since no copy of the event log could ever get its record. Nodes that are not
// in the roster are let go by. The generation is above that of the state and above the one given.
func (m *Machine) Succeed(at time.Time, lost []id.Node, above uint64) error {
	t := &txn{m: m, s: *m.cur.Load()}
	t.cmd.At, t.index = at, t.s.meta.Index
	t.s.meta.Generation = max(t.s.meta.Generation, above)
	if err := t.raise(Raise{Generation: true}); err != nil {
		return err
	}
	for _, n := range lost {
		var no *refusal
		if _, err := t.revoke(Revoke{Node: n}); err != nil && !(errors.As(err, &no) && no.code == CodeNotFound) {
			return err
		}
	}
	t.s.share()
	m.cur.Store(&t.s)
	return nil
}
