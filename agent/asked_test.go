package agent

import (
	"net/url"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
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
