package agent

import (
	"net/url"
	"slices"
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
