package agent

import (
	"context"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
)

// What costs a node much is done for any other only a few times at once.
func TestCostlyMethodsAreBounded(t *testing.T) {
	t.Parallel()
	m := aloneMesh(t)
	a := &Agent{mesh: m}
	a.node.Class = id.Core
	a.registerMethods()
	bound := map[string]int{}
	for _, row := range m.Methods() {
		bound[row.Name] = row.AtOnce
	}
	for _, name := range []string{methodVerify, methodView, methodRecords, methodEventsFetch, methodEventsStream, methodTail} {
		if n, ok := bound[name]; !ok || n <= 0 {
			t.Errorf("%s is not bounded", name)
		}
	}
}

// One node at a time has the log hashed for it; another one waits no longer than it says.
func TestLogIsHashedForOneNodeAtATime(t *testing.T) {
	t.Parallel()
	a := &Agent{}
	end, err := a.verifying.take(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	if _, err := a.verifyInTurn(ctx); !mesh.IsCode(err, mesh.CodeBusy) {
		t.Error(err)
	}
}
