package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
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
		{true, 1, false, "invite another machine"},
		{true, 3, true, "the ring has no workload"},
		{true, 3, false, ""},
	} {
		got := nextStep(api.Status{QuorumOK: c.quorum, Members: map[string]int{"alive": c.alive}}, api.Leader{}, c.idle)
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%+v: %q", c, got)
		}
		if c.quorum && strings.Contains(got, "no workload") != c.idle {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// Where enough voters answer there is nobody to be started.
func TestNextStepBetweenTwoCoordinators(t *testing.T) {
	t.Parallel()
	l := api.Leader{Voters: []string{"a", "b", "c"}, Quorum: 2, AliveVoters: 2}
	if got := nextStep(api.Status{}, l, false); !strings.HasPrefix(got, "wait for an election: 2 of 3") {
		t.Errorf("%q", got)
	}
	l.AliveVoters = 1
	if got := nextStep(api.Status{}, l, false); !strings.HasPrefix(got, "start voters: 1 of 3") {
		t.Errorf("%q", got)
	}
}

// A ring of two core nodes has one voter, which looks like two and is not.
func TestOneVoterIsToldOf(t *testing.T) {
	t.Parallel()
	a := "a"
	for _, c := range []struct {
		l    api.Leader
		want int
		told bool
	}{
		{api.Leader{Coordinator: &a, Voters: []string{"a"}, Nonvoters: []string{"b"}}, 3, true},
		{api.Leader{Coordinator: &a, Voters: []string{"a"}}, 5, true},
		{api.Leader{Coordinator: &a, Voters: []string{"a"}}, 1, false},                                // as it was wanted
		{api.Leader{Coordinator: &a, Voters: []string{"a"}, Nonvoters: []string{"b", "c"}}, 3, false}, // they will vote in a moment
		{api.Leader{Coordinator: &a, Voters: []string{"a", "b", "c"}}, 5, false},
		{api.Leader{Voters: []string{"a"}}, 3, false},
	} {
		if got := moreVoters(c.l, c.want); (got != "") != c.told {
			t.Errorf("%+v, %d wanted: %q", c.l, c.want, got)
		}
	}
}

func TestAlarmWhereTheRingIsNearlyFull(t *testing.T) {
	t.Parallel()
	for left, want := range map[int]bool{400_000: false, 40_000: false, 39_999: true, 0: true} {
		if al, got := roomAlarm(&kit.Room{Left: left, Of: 400_000}, time.Now()); got != want || got && al.Code != "few_artifacts_left" {
			t.Errorf("%d left: %+v %v, want %v", left, al, got, want)
		}
	}
}

// Copies that have no place are told of, whichever kind the settings want them of; of a default that nobody chose, games alone.
func TestTooManyCopiesAreNamed(t *testing.T) {
	t.Parallel()
	for have, want := range map[int]string{1: "games should have 2|model should have 4", 3: "model should have 4", 4: ""} {
		s := ring.Settings{Copies: map[ring.Kind]int{ring.KindModel: 4, ring.KindDataset: 1}}
		if got := strings.Join(tooManyCopies(s, have), "|"); got != want {
			t.Errorf("%d domains: %q, want %q", have, got, want)
		}
	}
	f, a := newFolded(t), &Agent{}
	_, version := f.m.View().Settings()
	f.do(state.KindSettings, state.PutSettings{Expect: version, Settings: ring.Settings{
		Timing: ring.TimingDev, Voters: 3, Copies: map[ring.Kind]int{ring.KindModel: 5}}})
	a.watchAlarms(f.m.View(), time.Now())
	if all := a.ofState.list(); len(all) != 1 || all[0].Code != "too_few_domains" || !strings.Contains(all[0].Message, "model should have 5") {
		t.Errorf("%+v", all)
	}
}

// A node that has never heard a coordinator lacks one since its start, however often it is asked.
func TestNoCoordinatorSinceTheStart(t *testing.T) {
	t.Parallel()
	f, a := newFolded(t), &Agent{started: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	all := a.ringAlarms(f.reading(), api.Leader{})
	if len(all) != 1 || all[0].Code != "no_coordinator" || !all[0].Since.Equal(a.started) {
		t.Errorf("%+v", all)
	}
}

// An alarm has begun when the state first gave rise to it, however late and often it is asked for.
func TestAlarmOfTheStateKeepsItsBeginning(t *testing.T) {
	t.Parallel()
	f, a := newFolded(t), &Agent{}
	since := func() (time.Time, bool) {
		for _, al := range a.ringAlarms(f.reading(), api.Leader{}) {
			if al.Code == "too_few_domains" {
				return al.Since, true
			}
		}
		return time.Time{}, false
	}
	want := func(copies int) {
		_, version := f.m.View().Settings()
		f.do(state.KindSettings, state.PutSettings{Expect: version, Settings: ring.Settings{
			Timing: ring.TimingDev, Voters: 3, Copies: map[ring.Kind]int{ring.KindPack: copies}}})
	}
	want(3)
	a.watchAlarms(f.m.View(), time.Now())
	if _, ok := since(); ok {
		t.Fatal("three nodes are too few for three copies")
	}
	want(5)
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	a.watchAlarms(f.m.View(), begin)
	a.watchAlarms(f.m.View(), begin.Add(time.Minute))
	for range 2 {
		if at, ok := since(); !ok || !at.Equal(begin) {
			t.Errorf("since %v %v, want %v", at, ok, begin)
		}
	}
	want(3)
	a.watchAlarms(f.m.View(), begin.Add(2*time.Minute))
	if at, ok := since(); ok {
		t.Errorf("still there since %v", at)
	}
	want(5)
	again := begin.Add(time.Hour)
	a.watchAlarms(f.m.View(), again)
	if at, _ := since(); !at.Equal(again) {
		t.Errorf("since %v the second time, want %v", at, again)
	}
}

// How long nobody has coordinated is what an operator wants to know first.
func TestAlarmSaysSinceWhenNobodyCoordinates(t *testing.T) {
	t.Parallel()
	heard := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	got := (&Agent{}).ringAlarms(newFolded(t).reading(), api.Leader{AsOf: api.AsOf{AsOf: api.ConfirmedAt(heard)}})
	if len(got) == 0 || got[0].Code != "no_coordinator" || !got[0].Since.Equal(heard) {
		t.Errorf("%+v", got)
	}
}

// A daemon's way to the coordinator is a node's own, too: `data put` without one ends as every other command does.
func TestNoCoordinatorIsTheSameByEveryWay(t *testing.T) {
	t.Parallel()
	for _, err := range []error{leader.ErrNoCoordinator, kit.ErrNoCoordinator} {
		if got := api.AsError(decided(fmt.Errorf("add artifacts: %w", err))); got.Code != api.CodeNoQuorum {
			t.Errorf("%v: %+v", err, got)
		}
	}
}

// Of a ring whose nodes are changed one after the other the members' versions are all that tells how far it has come.
func TestVersionNamesTheBuild(t *testing.T) {
	t.Parallel()
	for commit, want := range map[string]string{
		"unknown": Version, "0123456789abcdef0123": Version + "+0123456789ab", "0123456789abcdef0123-dirty": Version + "+0123456789ab-dirty",
	} {
		if got := buildOf(commit); got != want {
			t.Errorf("commit %s: %s", commit, got)
		}
	}
}
