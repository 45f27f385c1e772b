package kit

import (
	"context"
	"errors"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Scope says how many of a daemon there are. The zero value is invalid, so that nobody gets a scope by accident.
type Scope int

// ScopeNode runs on every node that matches; ScopeCluster is a singleton that the coordinator assigns.
const (
	ScopeNode Scope = iota + 1
	ScopeCluster
)

// String is "node" or "cluster".
func (s Scope) String() string {
	switch s {
	case ScopeNode:
		return "node"
	case ScopeCluster:
		return "cluster"
	}
	return "invalid"
}

// Daemon is a running background task. Run blocks and returns nil when its context ends; any other return is a failure
// that the supervisor answers with a restart.
type Daemon interface {
	Run(ctx context.Context) error
}

// Run makes a Daemon of a function.
type Run func(ctx context.Context) error

// Run calls r.
func (r Run) Run(ctx context.Context) error { return r(ctx) }

// ErrSkip is returned by New when the daemon has nothing to do on this machine: it becomes STOPPED with the reason, which
// is no failure.
var ErrSkip = errors.New("not on this machine")

// Spec is all that the rest of the system knows of a daemon; states, restarts, status, config section, metrics and the
// index derive from it.
type Spec struct {
	Name     string // upper snake case, as in the owner's index
	Category string // core, datasync, training, evaluation, cluster, quality, resources, integrity, backup, providers
	Doc      string // one sentence, ending with a full stop
	Scope    Scope
	Classes  []id.Class // where it may run; empty means every class
	NeedsGPU bool
	// DependsOn names daemons that must be RUNNING first: on this node for node scope, anywhere in the ring for cluster scope.
	DependsOn []string
	Every     time.Duration // default period of its loop; 0 for parts that do not tick
	// Deadline is how long the daemon may go without progress before DAEMON_WATCHDOG cancels it. Where it is 0, or the period in
	// force is longer than Every, that is no less than max(3·period, 1 min).
	Deadline time.Duration
	Critical bool // /readyz fails without it
	Reads    []event.Type
	Emits    []event.Type
	// Settings is the daemon's default settings: a struct value whose JSON form is its section in the ring settings. It may
	// have a method Validate() error. Nil means it has none but "every" and "enabled".
	Settings any
	// AliasOf names the daemon that replaces this deprecated name; an alias has no New.
	AliasOf string
	New     func(Env) (Daemon, error)
}

// ProgressDeadline is Deadline with its default applied for the period in force.
func (s Spec) ProgressDeadline(every time.Duration) time.Duration {
	switch {
	case s.Deadline > 0 && every <= s.Every:
		return s.Deadline
	case every <= 0:
		every = s.Every
	}
	return max(s.Deadline, 3*every, time.Minute) // a longer period must not look like a daemon that is stuck
}

// RunsOn says whether a member's class and slots allow the daemon there.
func (s Spec) RunsOn(m ring.Member) bool {
	if s.NeedsGPU && m.Slots.GPU == 0 {
		return false
	}
	if len(s.Classes) == 0 {
		return true
	}
	for _, c := range s.Classes {
		if c == m.Class {
			return true
		}
	}
	return false
}

// Counter is what a daemon may offer that keeps finished games until they are safe: how many of this node's have no
// receipts, by config, counted when it is called. An error means unknown. It is called beside Run.
type Counter interface {
	Unsynced(ctx context.Context) (map[id.Config]int64, error)
}

// Drainer is what a daemon may offer when it holds something that must leave the machine before the agent does: Drain
// pushes it out and returns when all is safe, or with what is left when ctx ends. Run goes on meanwhile.
type Drainer interface {
	Drain(ctx context.Context) error
}
