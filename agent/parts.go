package agent

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/ringagent/ringagent/agent/httpd"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/pace"
)

// part gives a facade the built-in part that it stands for. The part does its work only while the daemon runs.
func (a *Agent) part(name string) (kit.Daemon, error) {
	switch name {
	case "event_router":
		return a.router, nil
	case "cross_process_poller":
		return a.external, nil
	case "health_server":
		return healthServer{a}, nil
	case "p2p_backend":
		return meshKeeper{a}, nil
	}
	return nil, fmt.Errorf("this agent has no part %q", name)
}

// healthServer answers on the ring's port: in the clear on loopback, over TLS elsewhere.
type healthServer struct{ a *Agent }

// Run implements kit.Daemon.
func (h healthServer) Run(ctx context.Context) error {
	return runParts(ctx,
		part{"http", func(ctx context.Context) error {
			return h.a.server.Serve(ctx, onlyLoopback{h.a.plain.lease()}, httpd.TrustLoopback)
		}},
		part{"https", func(ctx context.Context) error {
			return h.a.server.Serve(ctx, h.a.secure.lease(), httpd.TrustTLS)
		}},
	)
}

// onlyLoopback shuts out everybody else who speaks in the clear.
type onlyLoopback struct{ net.Listener }

// Accept implements net.Listener.
func (l onlyLoopback) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if host, _, err := net.SplitHostPort(c.RemoteAddr().String()); err == nil {
			if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
				return c, nil
			}
		}
		c.Close()
	}
}

// meshKeeper is P2P_BACKEND's part: it keeps the addresses of peers in the mesh's book up to date from the roster and calls
// seeds from the config as long as this node sees nobody else, or has lost its copy of the roster.
type meshKeeper struct{ a *Agent }

// Run implements kit.Daemon.
func (k meshKeeper) Run(ctx context.Context) error {
	for {
		alone := true
		for _, m := range k.a.mesh.Members() {
			alone = alone && (m.ID == k.a.node.ID || m.Status != "alive")
		}
		for _, m := range k.a.roster.file().Members {
			for _, addr := range m.Addresses {
				if m.ID != k.a.node.ID {
					k.a.mesh.AddAddress(m.ID, addr)
				}
			}
		}
		if alone || !k.a.roster.Loaded() {
			for _, seed := range k.a.conf.Load().Join {
				if _, err := k.a.joinAt(ctx, seed); err != nil && ctx.Err() == nil {
					k.a.log.Debug().Err(err).Str("seed", seed).Msg("seed does not answer")
				}
			}
		}
		if !pause(ctx, pace.Until(2*time.Second)) {
			return nil
		}
	}
}

// Alive implements kit.Prober: the mesh works if this node can be reached under its own id.
func (k meshKeeper) Alive(context.Context) error {
	if len(k.a.mesh.Members()) == 0 {
		return fmt.Errorf("gossip does not even see this node")
	}
	return nil
}

// profileSpecs are the daemons of this node's profile.
func (a *Agent) profileSpecs() ([]kit.Spec, error) {
	chosen, err := daemons.Profile(a.conf.Load().Profile, a.node.Class)
	if err != nil {
		return nil, err
	}
	if a.opts.Specs == nil {
		return chosen, nil
	}
	var out []kit.Spec
	for _, s := range a.opts.Specs {
		if s.AliasOf != "" || len(s.Classes) == 0 || containsClass(s.Classes, a.node.Class) {
			out = append(out, s)
		}
	}
	return out, nil
}

func containsClass(all []id.Class, c id.Class) bool {
	for _, x := range all {
		if x == c {
			return true
		}
	}
	return false
}
