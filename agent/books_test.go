package agent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/worker"
)

// What fails here again and again is one alarm, from when the first of it began.
func TestAlarmOfFailingJobs(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0).UTC()
	got := failingJobs([]worker.Failing{{Type: "selfplay", Reason: "render", Since: at.Add(time.Hour)}, {Type: "train", Reason: "exit_code", Since: at}})
	want := []api.Alarm{{Code: "jobs_failing", Since: at,
		Message: "jobs come to nothing on this node again and again: selfplay (render), train (exit_code); the log and ringagent work list tell more"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := failingJobs(nil); len(got) > 0 {
		t.Errorf("nothing fails: %v", got)
	}
}
