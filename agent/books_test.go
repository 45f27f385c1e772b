package agent

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
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

// A node that is far behind with packing claims no more self-play and says so, until it is told that it has caught up.
func TestNodeThatIsBehindIsHeldAndSaysSo(t *testing.T) {
	t.Parallel()
	a, _ := founder(t, func(config.Config) {})
	for _, games := range []int{0, 10500, 10600, 0} {
		jobs{a}.Hold(games)
		var behind []api.Alarm
		for _, al := range a.alarmList() {
			if al.Code == "games_behind" {
				behind = append(behind, al)
			}
		}
		if held := a.worker.Snapshot().Held; held != (games > 0) || len(behind) != min(games, 1) || games > 0 && !strings.HasPrefix(behind[0].Message, strconv.Itoa(games)) {
			t.Errorf("%d games: held %v, alarms %v", games, held, behind)
		}
	}
}
