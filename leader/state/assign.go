package state

import (
	"fmt"
	"regexp"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

var daemonName = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)

// assign decides who runs a singleton. The epoch is this entry's, so that it is larger than every one before.
func (t *txn) assign(b Assign) (any, error) {
	if !daemonName.MatchString(b.Daemon) {
		return nil, refuse(CodeInvalid, "daemon %q: want an upper-case name", b.Daemon)
	}
	cur, _ := t.s.assignments.get(b.Daemon)
	if cur.Epoch != b.Previous {
		return nil, refuse(CodeConflict, "%s: epoch is %d, not %d", b.Daemon, cur.Epoch, b.Previous)
	}
	if b.Node != "" {
		r, err := t.member(b.Node)
		switch {
		case err != nil:
			return nil, err
		case !r.Live():
			return nil, refuse(CodeRefused, "%s: node %s is not alive", b.Daemon, b.Node)
		case r.Boot != b.Boot:
			return nil, refuse(CodeConflict, "%s: node %s runs boot %s, not %s", b.Daemon, b.Node, r.Boot, b.Boot)
		case t.s.DaemonOff(b.Daemon):
			return nil, refuse(CodeRefused, "%s is switched off", b.Daemon)
		}
	}
	if b.Standby != "" {
		if _, err := t.member(b.Standby); err != nil {
			return nil, err
		}
	}
	a := ring.Assignment{Daemon: b.Daemon, Node: b.Node, Boot: b.Boot, Standby: b.Standby, Reason: b.Reason}
	if b.Node == "" {
		a.Boot = ""
	}
	return t.putAssignment(a)
}

// putAssignment gives a the epoch of this entry.
func (t *txn) putAssignment(a ring.Assignment) (ring.Assignment, error) {
	e, err := id.NewEpoch(t.s.meta.Generation, t.index)
	if err != nil {
		// The log has outgrown the epoch: no decision about singletons can be made any more.
		return a, fmt.Errorf("assign %s: %w", a.Daemon, err)
	}
	if cur, ok := t.s.assignments.get(a.Daemon); ok && e <= cur.Epoch && cur.Epoch != 0 {
		return a, refuse(CodeConflict, "%s: epoch %d would not be above %d; the generation must be raised", a.Daemon, e, cur.Epoch)
	}
	a.Epoch, a.Since = e, t.at()
	t.s.assignments.put(a.Daemon, a)
	return a, nil
}

// giveUp takes a node's singletons from it: its epochs are over at once.
func (t *txn) giveUp(n id.Node, reason string) {
	for name, a := range t.s.assignments.all() {
		if a.Standby == n && a.Node != n {
			a.Standby = ""
			t.s.assignments.put(name, a)
		}
		if a.Node == n {
			t.unassign(a, reason)
		}
	}
}

// giveUpOld is what a node's new boot means for the assignments of the one before: it has none of them, and no epoch is
// ever held by two boots.
func giveUpOld(t *txn, n id.Node, _ id.Boot) { t.giveUp(n, "node restarted") }

// KeepOverBoots is the broken variant, for tests of what stands on a machine: a new boot goes on under the epochs of the
// one before.
func (m *Machine) KeepOverBoots() {
	m.rules.newBoot = func(t *txn, n id.Node, b id.Boot) {
		for name, a := range t.s.assignments.all() {
			if a.Node == n {
				a.Boot = b
				t.s.assignments.put(name, a)
			}
		}
	}
}

func (t *txn) unassign(a ring.Assignment, reason string) {
	a.Node, a.Boot, a.Reason = "", "", reason
	if _, err := t.putAssignment(a); err != nil {
		// No larger epoch can be had; nobody holding it is what matters.
		a.Since = t.at()
		t.s.assignments.put(a.Daemon, a)
	}
}

func (t *txn) switchDaemon(b SwitchDaemon) error {
	if !daemonName.MatchString(b.Daemon) {
		return refuse(CodeInvalid, "daemon %q: want an upper-case name", b.Daemon)
	}
	if !b.Off {
		t.s.off.del(b.Daemon)
		return nil
	}
	t.s.off.put(b.Daemon, true)
	if a, ok := t.s.assignments.get(b.Daemon); ok && a.Node != "" {
		t.unassign(a, "switched off")
	}
	return nil
}

// raise lifts the generation, which ends every epoch of the one before.
func (t *txn) raise(b Raise) error {
	if b.Commands > Version {
		return fmt.Errorf("command version %d: %w", b.Commands, ErrUnknownCommand)
	}
	if b.Commands > t.s.meta.Commands {
		t.s.meta.Commands = b.Commands
	}
	if b.Generation {
		t.s.meta.Generation++
		for _, a := range t.s.assignments.all() {
			t.unassign(a, "new generation")
		}
	}
	return nil
}

func (t *txn) lead(b Lead) error {
	if b.Term <= t.s.meta.Term {
		return refuse(CodeConflict, "term %d is not above %d", b.Term, t.s.meta.Term)
	}
	t.s.meta.Term, t.s.meta.Coordinator = b.Term, b.Node
	t.fact(evLeadElected, b.Node, map[string]any{"node_id": b.Node, "term": b.Term})
	t.prune()
	return nil
}

// prune forgets what nobody can need any more: outboxes of nodes that went long ago, and tokens that ended long ago.
func (t *txn) prune() {
	long := t.at().Add(-keptRemoved)
	for key, r := range t.s.origins.all() {
		m, ok := t.s.members.get(string(r.Node))
		if (!ok || m.Revoked || m.Status == ring.Left) && r.At.Before(long) {
			t.s.origins.del(key)
		}
	}
	for key, tok := range t.s.tokens.all() {
		if tok.Expires.Before(long) {
			t.s.tokens.del(key)
		}
	}
}

func (t *txn) putSettings(b PutSettings) (any, error) {
	if err := t.m.rules.expect(t.s.meta.SettingsVersion, b.Expect); err != nil {
		return nil, err
	}
	if err := b.Settings.Validate(); err != nil {
		return nil, refuse(CodeInvalid, "%v", err)
	}
	t.s.settings = b.Settings
	t.s.meta.SettingsVersion++
	t.fact(evSettings, t.by(), map[string]any{"node_id": t.by(), "version": t.s.meta.SettingsVersion})
	return t.s.meta.SettingsVersion, nil
}

// checkExpect is the compare of every compare-and-set.
func checkExpect(have, want uint64) error {
	if have != want {
		return refuse(CodeConflict, "version is %d, not %d", have, want)
	}
	return nil
}
