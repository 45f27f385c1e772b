package daemons

import (
	"fmt"

	"github.com/ringagent/ringagent/daemons/cluster"
	"github.com/ringagent/ringagent/daemons/core"
	"github.com/ringagent/ringagent/daemons/datasync"
	"github.com/ringagent/ringagent/daemons/evaluation"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/resources"
	"github.com/ringagent/ringagent/daemons/training"
)

// All is every daemon, by category. A new daemon is one file in its category and one line here.
func All() []kit.Spec {
	return []kit.Spec{
		core.EventRouter(),
		core.CrossProcessPoller(),
		core.DLQRetry(),
		core.Watchdog(),
		core.HealthServer(),

		datasync.AutoSync(),
		datasync.EphemeralSync(),
		datasync.NPZDistribution(),
		datasync.ModelDistribution(),
		alias("SYNC_COORDINATOR", "AUTO_SYNC", "datasync"),

		training.Trigger(),
		training.Export(),
		training.Pipeline(),
		training.Selfplay(),

		evaluation.Evaluation(),
		evaluation.Promotion(),

		cluster.P2PBackend(),
		cluster.NodeHealth(),

		resources.Populator(),

		alias("HEALTH_CHECK", "NODE_HEALTH_MONITOR", "integrity"),
	}
}

// alias is a deprecated name: starting it starts what replaces it, once, with a warning.
func alias(name, of, category string) kit.Spec {
	return kit.Spec{Name: name, Category: category, AliasOf: of, Doc: fmt.Sprintf("Deprecated: use %s.", of), Scope: kit.ScopeNode}
}

// ByName finds a daemon.
func ByName(name string) (kit.Spec, bool) {
	for _, s := range All() {
		if s.Name == name {
			return s, true
		}
	}
	return kit.Spec{}, false
}
