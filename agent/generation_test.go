package agent

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// A new generation may begin at a lower index than the last one of the former that this node has seen: whom it shuts out is
// shut out here at once all the same, and the former state lets nobody in again.
func TestRosterFollowsANewGeneration(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "roster.json")
	r, err := openRoster(path)
	if err != nil {
		t.Fatal(err)
	}
	f := newFolded(t)
	recovered := state.New()
	recovered.Restore(f.m.View())
	f.do(state.KindRevoke, state.Revoke{Node: edgeC}) // the lost voters alone decided this
	last := f.m.View()
	if _, err := r.take(last); err != nil {
		t.Fatal(err)
	}
	if err := recovered.Succeed(time.Now(), []id.Node{coreB}, 0); err != nil {
		t.Fatal(err)
	}
	if revoked, err := r.take(recovered.View()); err != nil || !slices.Equal(revoked, []id.Node{coreB}) {
		t.Errorf("revoked %v, %v", revoked, err)
	}
	again, err := openRoster(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*roster{r, again} {
		if _, err := r.take(last); err != nil {
			t.Fatal(err)
		}
		if e, ok := r.Lookup(coreB); !ok || !e.Revoked || slices.Contains(r.Nodes(), coreB) || !slices.Contains(r.Nodes(), edgeC) {
			t.Errorf("%+v, nodes %v", e, r.Nodes())
		}
	}
}

func TestWrittenDown(t *testing.T) {
	t.Parallel()
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	known := []ring.Member{
		{ID: "1", Name: "c1", Revoked: true, Enrolled: late}, {ID: "2", Name: "c1", Enrolled: early},
		{ID: "3", Name: "c2", Enrolled: early}, {ID: "4", Name: "c2", Enrolled: late},
	}
	for who, want := range map[string]id.Node{"c1": "2", "c2": "4", "1": "1", "c3": "", "": ""} {
		if m, ok := writtenDown(known, who); m.ID != want || ok != (want != "") {
			t.Errorf("%q: %q, %v; want %q", who, m.ID, ok, want)
		}
	}
}
