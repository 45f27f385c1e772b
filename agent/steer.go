package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/supervise"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// steer starts, stops or restarts a daemon of this node.
func (a *Agent) steer(ctx context.Context, name, verb string) error {
	name = strings.ToUpper(name)
	spec, ok := a.spec(name)
	if !ok {
		return api.Errorf(api.CodeNotFound, "no daemon %q", name).WithHint("list them with: ringagent daemons")
	}
	if spec.AliasOf != "" {
		a.log.Warn().Str("daemon", name).Str("instead", spec.AliasOf).Msg("deprecated name")
		return a.steer(ctx, spec.AliasOf, verb)
	}
	if spec.Scope == kit.ScopeCluster && verb != "restart" {
		if verb != "start" && verb != "stop" {
			return api.Errorf(api.CodeInvalid, "verb %q: want start, stop or restart", verb)
		}
		if err := a.forCore(verb + " a singleton, which is one for the whole ring"); err != nil {
			return err
		}
		_, err := a.leader.Propose(ctx, a.command(state.KindDaemonSwitch, state.SwitchDaemon{Daemon: name, Off: verb == "stop"}))
		return decided(err)
	}
	var err error
	switch verb {
	case "start":
		err = a.supervisor.Start(name)
	case "stop":
		err = a.supervisor.Stop(name)
	case "restart":
		err = a.supervisor.Restart(name)
	default:
		return api.Errorf(api.CodeInvalid, "verb %q: want start, stop or restart", verb)
	}
	if errors.Is(err, supervise.ErrUnknown) {
		return api.Errorf(api.CodeNotFound, "daemon %s does not run on this node", name)
	}
	return err
}

// steerOn does so where the daemon is: on the named node, or for a singleton's restart on its holder.
func (a *Agent) steerOn(ctx context.Context, name, verb, node string) error {
	name = strings.ToUpper(name)
	target := a.node.ID
	spec, known := a.spec(name)
	if instead, ok := a.spec(spec.AliasOf); ok {
		spec = instead
	}
	if node != "" {
		if known && spec.Scope == kit.ScopeCluster && (verb == "start" || verb == "stop") {
			return api.Errorf(api.CodeInvalid, "%s is a singleton: %s is for the whole ring, not for one node of it", name, verb).
				WithHint(fmt.Sprintf("without --node: ringagent daemon %s %s", verb, name))
		}
		m, err := a.find(node)
		if err != nil {
			return err
		}
		target = m.ID
	} else if known && spec.Scope == kit.ScopeCluster && verb == "restart" {
		as, ok := a.leader.View().Assignment(spec.Name)
		if as.Node != a.node.ID {
			if err := a.forCore("restart a singleton that it does not hold"); err != nil {
				return err
			}
		}
		if !ok || as.Node == "" {
			return api.Errorf(api.CodeRefused, "%s is assigned to nobody now", name)
		}
		target = as.Node
	}
	if target == a.node.ID {
		return a.steer(ctx, name, verb)
	}
	if err := a.forCore("tell another node what to run"); err != nil {
		return err
	}
	return meshError(a.mesh.Call(ctx, target, methodDaemon, daemonOrder{Name: name, Verb: verb}, nil))
}

func (a *Agent) explainOn(ctx context.Context, name, node string) (any, error) {
	if node != "" {
		m, err := a.find(node)
		if err != nil {
			return nil, err
		}
		if m.ID != a.node.ID {
			var out api.Explanation
			err := a.mesh.Call(ctx, m.ID, methodExplain, daemonOrder{Name: name}, &out)
			return out, meshError(err)
		}
	}
	return a.explain(ctx, name)
}

// explain says why a daemon runs where it runs, or why not.
func (a *Agent) explain(ctx context.Context, name string) (api.Explanation, error) {
	name = strings.ToUpper(name)
	spec, ok := a.spec(name)
	if !ok {
		return api.Explanation{}, api.Errorf(api.CodeNotFound, "no daemon %q", name).WithHint("list them with: ringagent daemons")
	}
	out := api.Explanation{Nodes: map[string]string{}, Enabled: true, Why: []string{spec.Doc}}
	if spec.AliasOf != "" {
		out.Why = append(out.Why, "this is a deprecated name of "+spec.AliasOf)
		spec, _ = a.spec(spec.AliasOf)
	}
	r := a.near()
	if !r.fresh.Known {
		return out, unknownState()
	}
	settings, _ := r.s.Settings()
	out.Enabled = daemons.Enabled(settings, spec.Name) && !r.s.DaemonOff(spec.Name)
	all, err := a.daemonsShape(ctx, false, "")
	if err != nil {
		return out, err
	}
	out.Daemon = api.DaemonRow{Name: spec.Name, Category: spec.Category, Scope: spec.Scope.String(), State: "STOPPED", DependsOn: orEmpty(spec.DependsOn), BlockedOn: []string{}}
	for _, row := range all.Daemons {
		if row.Name == spec.Name {
			out.Daemon = row
		}
	}
	for _, m := range slices.Collect(r.s.Members()) {
		switch {
		case m.Revoked:
			out.Nodes[r.name(m.ID)] = "no: revoked"
		case !spec.RunsOn(m):
			out.Nodes[r.name(m.ID)] = fmt.Sprintf("no: it needs class %v%s", spec.Classes, gpuNeed(spec))
		case m.Status != ring.Alive:
			out.Nodes[r.name(m.ID)] = "no: " + string(m.Status)
		default:
			out.Nodes[r.name(m.ID)] = "may run here"
		}
	}
	if spec.Scope == kit.ScopeCluster {
		if as, ok := r.s.Assignment(spec.Name); ok {
			out.Why = append(out.Why, fmt.Sprintf("assigned to %s under epoch %d: %s", orNobody(r, as.Node), as.Epoch, as.Reason))
		} else {
			out.Why = append(out.Why, "no coordinator has assigned it yet")
		}
	}
	out.Why = append(out.Why, out.Daemon.BlockedOn...)
	if out.Daemon.LastError != "" {
		out.Why = append(out.Why, "last error: "+out.Daemon.LastError)
	}
	return out, nil
}
