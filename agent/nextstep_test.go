package agent

import (
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent/api"
)

// A ring without a workload runs well and does nothing. Its status has to say so, once there is nothing more urgent.
func TestNextStep(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		quorum bool
		alive  int
		idle   bool
		want   string
	}{
		{false, 3, true, "start voters"},
		{true, 1, true, "invite another machine"},
		{true, 3, true, "the ring has no workload"},
		{true, 3, false, ""},
	} {
		got := nextStep(api.Status{QuorumOK: c.quorum, Members: map[string]int{"alive": c.alive}}, api.Leader{}, c.idle)
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
