package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/agent/worker"
	"github.com/ringagent/ringagent/mesh/meshtest"
	"github.com/rs/zerolog"
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

// A node whose state.db is damaged, or gone with its outbox, begins these anew and says what that costs.
func TestLostSmallFilesAreTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"untouched":    {func(string) error { return nil }, ""},
		"no state.db":  {func(dir string) error { return os.Remove(filepath.Join(dir, "state.db")) }, "state_lost"},
		"no outbox.db": {func(dir string) error { return os.Remove(filepath.Join(dir, "outbox.db")) }, "outbox_lost"},
		"garbage in it": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "state.db"), bytes.Repeat([]byte("x"), 9000), 0o600)
		}, "state_lost"},
		"half a file":   {func(dir string) error { return os.Truncate(filepath.Join(dir, "state.db"), 5000) }, "state_lost"},
		"an empty file": {func(dir string) error { return os.Truncate(filepath.Join(dir, "state.db"), 0) }, "state_lost"},
		"no raft.db":    {func(dir string) error { return os.Remove(filepath.Join(dir, "raft", "raft.db")) }, "raft_damaged"},
		"outbox.db between two names": {func(dir string) error {
			return os.Rename(filepath.Join(dir, "outbox.db"), filepath.Join(dir, "outbox.db.next"))
		}, ""},
		"a first start that came no further": {func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "outbox.db")), os.Remove(filepath.Join(dir, "state.db")))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, _ := founder(t, func(conf config.Config) {
				first, err := New(conf, Options{Log: zerolog.Nop(), Network: meshtest.New(1).Host("127.0.7.1")})
				if err != nil {
					t.Error(err)
					return
				}
				err = first.local.shelf("x").Put("k", []byte("v"))
				endUnrun(t, first)
				if err := errors.Join(err, os.Remove(filepath.Join(conf.DataDir, "seed.json")), c.spoil(conf.DataDir)); err != nil {
					t.Error(err)
				}
			})
			var got []string
			for _, al := range a.alarmList() {
				got = append(got, al.Code)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("alarms %v, want %q", got, c.want)
			}
		})
	}
}
