package agent

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons/kit"
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

// askedYes says whether a query says yes to name: only a word that says so does, and saying nothing is no.
func askedYes(q url.Values, name string) (bool, error) {
	if !q.Has(name) {
		return false, nil
	}
	yes, err := strconv.ParseBool(q.Get(name))
	if err != nil {
		return false, api.Errorf(api.CodeInvalid, "%s %q: want true or false, 1 or 0", name, q.Get(name))
	}
	return yes, nil
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

// brought is the input that an operator's item of a stage brings along, as the daemons' items do, where the stage's templates
// use the placeholder that gets its value from it. The champion is not among them: it is found out when the item is claimed.
type brought struct {
	placeholder string
	roles       []string // any of them; the first is the one to be named
	kind        ring.Kind
}

func broughtTo(stage string) (brought, bool) {
	switch stage {
	case workload.Export:
		return brought{"games", []string{kit.RolePack, kit.RolePackList}, ring.KindPack}, true
	case workload.Train:
		return brought{"dataset", []string{kit.RoleDataset}, ring.KindDataset}, true
	case workload.Evaluate:
		return brought{"model", []string{kit.RoleCandidate}, ring.KindModel}, true
	}
	return brought{}, false
}

// checkInputs checks what an operator's item is to be made from, and gives the inputs as the item is to have them: whom an
// evaluation measures is its candidate, also where it was given as the model that it is in the command line. Without what it
// needs a command could only fail, on one node after the other.
func checkInputs(name string, stage workload.Stage, inputs []ring.Input) ([]ring.Input, error) {
	inputs = slices.Clone(inputs)
	roles := []string{kit.RoleCandidate, kit.RoleChampion, kit.RoleDataset, kit.RoleModel, kit.RolePack, kit.RolePackList}
	for _, in := range inputs {
		if !slices.Contains(roles, in.Role) {
			return nil, api.Errorf(api.CodeInvalid, "input %q: want one of the roles %s", in.Role, strings.Join(roles, ", "))
		}
	}
	has := func(roles ...string) bool {
		return slices.ContainsFunc(inputs, func(in ring.Input) bool { return slices.Contains(roles, in.Role) })
	}
	if name == workload.Evaluate && !has(kit.RoleCandidate) {
		for i := range inputs {
			if inputs[i].Role == kit.RoleModel {
				inputs[i].Role = kit.RoleCandidate
			}
		}
	}
	need, ok := broughtTo(name)
	if !ok || !stage.Uses(need.placeholder) || has(need.roles...) {
		return inputs, nil
	}
	return nil, api.Errorf(api.CodeInvalid, "the item has no input %s, from which the workload's stage %s gets its {%s}", need.roles[0], name, need.placeholder).
		WithHint(fmt.Sprintf("give one with: --input %s=SHA256; list them with: ringagent data ls --kind %s", need.roles[0], need.kind))
}
