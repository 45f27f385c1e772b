package agent

import (
	"testing"
	"time"

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
