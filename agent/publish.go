package agent

import (
	"github.com/ringagent/ringagent/eventlog"
)

// Outbox is where this node's events are stated, for programs that run an agent inside themselves.
func (a *Agent) Outbox() *eventlog.Outbox { return a.outbox }
