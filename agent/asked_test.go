package agent

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/workload"
)

// A list that is asked for by a word that does not exist is refused: an empty one would look like an answer.
func TestListsAreAskedForByWordsThatExist(t *testing.T) {
	t.Parallel()
	f := newFolded(t)
	f.add("pack", ring.KindPack, edgeC, 3, edgeC)
	f.add("model", ring.KindModel, coreA, 0, coreA)
	views := (&Agent{}).views()
	for _, c := range []struct{ path, query, bad string }{
		{"work", "state=ready", "state"}, {"work", "type=play", "type"},
		{"artifacts", "kind=pack", "kind"}, {"artifacts", "config=connect4", "config"},
		{"artifacts/under-replicated", "kind=modell", "kind"}, {"artifacts/under-replicated", "config=_2p", "config"},
		{"games", "config=x", "config"}, {"models", "config=x", "config"}, {"ratings", "config=x", "config"},
	} {
		q, err := url.ParseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		_, err = views["/api/v1/"+c.path](t.Context(), f.reading(), q)
		if err == nil || api.AsError(err).Code != api.CodeInvalid || !strings.Contains(err.Error(), c.bad) {
			t.Errorf("%s?%s: %v", c.path, c.query, err)
		}
	}
	for _, c := range []struct {
		kind   ring.Kind
		config id.Config
		want   int
	}{{"", "", 2}, {ring.KindModel, "", 1}, {ring.KindModel, "hex8_2p", 0}, {"", four, 2}} {
		if got := f.reading().underReplicated(c.kind, c.config); len(got) != c.want {
			t.Errorf("%d of kind %q and config %q are under-replicated, want %d", len(got), c.kind, c.config, c.want)
		}
	}
}

func TestParamsOfAnOperatorsItem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, value string
		good        bool
	}{
		{"games", "5", true}, {"games", "0", false}, {"games", "-5", false}, {"games", "many", false}, {"game", "5", false},
		{"simulations", "0", true}, {"simulations", "-1", false}, {"epochs", "1.5", false}, {"seed", "7", true},
		{"seed", "9223372036854775807", true}, {"opponents", "random,heuristic", true}, {"opponents", "", false},
	} {
		err := checkParams(map[string]string{c.name: c.value})
		if (err == nil) != c.good || err != nil && !strings.Contains(err.Error(), c.name) {
			t.Errorf("%s=%s: %v", c.name, c.value, err)
		}
	}
}

// What a stage's templates use and nobody but the item can give is asked for; what the claim finds out, and what another game's
// commands do without, is not.
func TestInputsOfAnOperatorsItem(t *testing.T) {
	t.Parallel()
	argv := func(args ...string) workload.Stage { return workload.Stage{Argv: append([]string{"play"}, args...)} }
	for _, c := range []struct {
		stage  string
		as     workload.Stage
		given  []string
		lacks  string // "": it is taken
		become string // the role of the first input, where it is another one
	}{
		{"selfplay", argv("--model", "{model}", "--games", "{games}"), nil, "", ""},
		{"selfplay", argv("--model", "{model}"), []string{"model"}, "", ""},
		{"export", argv("--games", "{games}"), nil, "pack", ""},
		{"export", argv("--games", "{games}"), []string{"dataset"}, "pack", ""},
		{"export", argv("--games", "{games}"), []string{"pack", "pack"}, "", ""},
		{"export", argv("--games", "{games}"), []string{"packlist"}, "", ""},
		{"export", argv("--all"), nil, "", ""},
		{"train", argv("--dataset={dataset}", "--model", "{model}"), nil, "dataset", ""},
		{"train", argv("--dataset={dataset}", "--model", "{model}"), []string{"model"}, "dataset", ""},
		{"train", argv("--dataset={dataset}", "--model", "{model}"), []string{"dataset"}, "", ""},
		{"train", workload.Stage{Argv: []string{"fit"}, Env: map[string]string{"DATA": "{dataset}"}}, nil, "dataset", ""},
		{"evaluate", argv("--model", "{model}", "--champion", "{champion}"), nil, "candidate", ""},
		{"evaluate", argv("--model", "{model}", "--champion", "{champion}"), []string{"champion"}, "candidate", ""},
		{"evaluate", argv("--model", "{model}", "--champion", "{champion}"), []string{"candidate"}, "", ""},
		{"evaluate", argv("--model", "{model}", "--champion", "{champion}"), []string{"model"}, "", "candidate"},
		{"evaluate", argv("--untrained"), nil, "", ""},
		{"train", argv("--dataset", "{dataset}"), []string{"dataset", "datset"}, "datset", ""},
	} {
		var inputs []ring.Input
		for _, role := range c.given {
			inputs = append(inputs, ring.Input{Role: role, Digest: id.DigestOf([]byte(role))})
		}
		got, err := checkInputs(c.stage, c.as, inputs)
		if c.lacks != "" {
			if err == nil || api.AsError(err).Code != api.CodeInvalid || !strings.Contains(err.Error(), c.lacks) {
				t.Errorf("%s of %v with %v: %v", c.stage, c.as, c.given, err)
			}
			if hint := "--input " + c.lacks + "="; !slices.Contains(c.given, c.lacks) && err != nil && !strings.Contains(api.AsError(err).Hint, hint) {
				t.Errorf("%s with %v: %v does not say how to give it", c.stage, c.given, err)
			}
			continue
		}
		if err != nil || len(got) != len(inputs) {
			t.Errorf("%s of %v with %v: %v, %v", c.stage, c.as, c.given, got, err)
		}
		if c.become != "" && got[0].Role != c.become {
			t.Errorf("%s with %v became %v", c.stage, c.given, got)
		}
	}
}
