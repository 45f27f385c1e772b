package cluster

import (
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
)

// PartMesh is the built-in part that P2P_BACKEND runs.
const PartMesh = "p2p_backend"

// P2PBackend is P2P_BACKEND.
func P2PBackend() kit.Spec {
	return kit.Spec{
		Name: "P2P_BACKEND", Category: "cluster", Scope: kit.ScopeNode, DependsOn: []string{"EVENT_ROUTER"}, Every: 10 * time.Second, Critical: true,
		Doc: "Keeps this node in the mesh: known peers are dialled again for ever and remembered on disk.",
		New: kit.Facade(PartMesh),
	}
}
