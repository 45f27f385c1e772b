package agent

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/workload"
)

// What is asked for by a word that does not exist is an error that names it: an empty list would say that there is nothing.

// checkKind names the kinds that there are.
func checkKind(k ring.Kind) error {
	switch k {
	case ring.KindPack, ring.KindDataset, ring.KindModel, ring.KindMatches, ring.KindBackup, ring.KindFile:
		return nil
	}
	return api.Errorf(api.CodeInvalid, "kind %q: want games, dataset, model, matches, backup or file", k)
}

// askedConfig is the config that a list is asked of; "" is all.
func askedConfig(q url.Values) (id.Config, error) {
	s := q.Get("config")
	if s == "" {
		return "", nil
	}
	c, err := id.ParseConfig(s)
	if err != nil {
		return "", api.Errorf(api.CodeInvalid, "%v", err)
	}
	return c, nil
}

// askedArtifacts is the kind and the config that a list of artifacts is asked of; "" is all.
func askedArtifacts(q url.Values) (ring.Kind, id.Config, error) {
	k := ring.Kind(q.Get("kind"))
	if k != "" {
		if err := checkKind(k); err != nil {
			return "", "", err
		}
	}
	c, err := askedConfig(q)
	return k, c, err
}

// askedWork checks by what a list of work items is asked for; "" is all.
func askedWork(state, kind string) error {
	switch ring.WorkState(state) {
	case "", ring.WorkPending, ring.WorkClaimed, ring.WorkRunning, ring.WorkDone, ring.WorkFailed, ring.WorkCancelled, ring.WorkDead:
	default:
		return api.Errorf(api.CodeInvalid, "state %q: want pending, claimed, running, done, failed, cancelled or dead", state)
	}
	if stages := workload.StageNames(); kind != "" && !slices.Contains(stages, kind) {
		return api.Errorf(api.CodeInvalid, "type %q: want one of %s", kind, strings.Join(stages, ", "))
	}
	return nil
}

// checkParams checks what an operator's item is to be run with: a command that ends at once since its arguments are wrong
// would have its node take no work of that type for a while.
func checkParams(params map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(params)) {
		v := params[name]
		least := int64(0)
		switch name {
		case "games":
			least = 1
		case "seed", "simulations", "epochs":
		case "opponents":
			if v == "" {
				return api.Errorf(api.CodeInvalid, "param opponents: want names such as random,heuristic")
			}
			continue
		default:
			return api.Errorf(api.CodeInvalid, "param %q: want games, seed, simulations, epochs or opponents", name)
		}
		if n, err := strconv.ParseInt(v, 10, 64); err != nil || n < least {
			return api.Errorf(api.CodeInvalid, "param %s %q: want a whole number from %d on", name, v, least)
		}
	}
	return nil
}
