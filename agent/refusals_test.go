package agent

import (
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/mesh"
)

// TestRefusalsAreToldSeldom: a node that is shut out and left running must not fill its disk with what it is told at every call.
func TestRefusalsAreToldSeldom(t *testing.T) {
	t.Parallel()
	var r refusals
	now := time.Unix(1e9, 0)
	told := 0
	for range 1000 {
		if r.news("a", mesh.CodeRevoked, now) {
			told++
		}
		now = now.Add(100 * time.Millisecond)
	}
	if told != 2 {
		t.Errorf("told %d times in 100 s", told)
	}
	if !r.news("b", mesh.CodeRevoked, now) || !r.news("a", mesh.CodeDuplicate, now) {
		t.Error("another node or another reason is news")
	}
}

// An edge node that is shut out says that, and not that nobody answers.
func TestNoCoreNodeAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		said *mesh.Error
		want api.Code
	}{
		{mesh.Errorf(mesh.CodeRevoked, "deliberate"), api.CodeUnauthorised},
		{mesh.Errorf(mesh.CodeTimeout, "deliberate"), api.CodeTimeout},
		{mesh.Errorf(mesh.CodeUnavailable, "deliberate"), api.CodeNoQuorum},
	} {
		if got := api.AsError(noCoreNode(meshError(c.said))); got.Code != c.want {
			t.Errorf("%v: %+v", c.said, got)
		}
	}
	if got := api.AsError(noCoreNode(nil)); got.Code != api.CodeNoQuorum {
		t.Errorf("nobody to ask: %+v", got)
	}
}
