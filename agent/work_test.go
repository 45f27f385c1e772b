package agent

import (
	"errors"
	"fmt"
	"testing"

	"github.com/ringagent/ringagent/agent/worker"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
)

// What a job made waits for a coordinator, and for nothing else.
func TestOutputWaitsForACoordinatorOnly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err   error
		waits bool
	}{
		"no coordinator":  {fmt.Errorf("dial: %w", leader.ErrNoCoordinator), true},
		"outcome unknown": {fmt.Errorf("propose: %w", leader.ErrUnknownOutcome), true},
		"refused":         {&leader.Refused{Code: string(state.CodeInvalid), Message: "deliberate"}, false},
		"disk":            {errors.New("deliberate"), false},
	} {
		err := noAnswer(kitError("add artifacts", c.err))
		if errors.Is(err, worker.ErrNoAnswer) != c.waits || c.waits && err.Error() == worker.ErrNoAnswer.Error() {
			t.Errorf("%s: %v", name, err)
		}
	}
}
