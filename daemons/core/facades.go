package core

import (
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
)

// Names of the built-in parts that the facades of this package run.
const (
	PartRouter  = "event_router"
	PartPoller  = "cross_process_poller"
	PartHealth  = "health_server"
	facadeEvery = 10 * time.Second
)

// EventRouter is EVENT_ROUTER.
func EventRouter() kit.Spec {
	return kit.Spec{
		Name: "EVENT_ROUTER", Category: "core", Scope: kit.ScopeNode, Every: facadeEvery, Critical: true,
		Doc: "Follows the log on this node and delivers events to every subscriber in order, each with its own queue.",
		New: kit.Facade(PartRouter),
	}
}

// CrossProcessPoller is CROSS_PROCESS_POLLER.
func CrossProcessPoller() kit.Spec {
	return kit.Spec{
		Name: "CROSS_PROCESS_POLLER", Category: "core", Scope: kit.ScopeNode, Every: facadeEvery,
		Doc: "Lets other processes of this host publish, and consume under a durable name with acknowledgement.",
		New: kit.Facade(PartPoller),
	}
}

// HealthServer is HEALTH_SERVER.
func HealthServer() kit.Spec {
	return kit.Spec{
		Name: "HEALTH_SERVER", Category: "core", Scope: kit.ScopeNode, Every: facadeEvery, Critical: true,
		Doc: "Answers liveness, readiness and metrics probes whatever else this node is doing.",
		New: kit.Facade(PartHealth),
	}
}
