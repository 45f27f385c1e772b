package core

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// consume runs two durable subscribers: one that fails so many times and one that is always fine.
func consume(t *testing.T, n *kittest.Node, failures int) (tries, fine *int) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	tries, fine = new(int), new(int)
	for name, h := range map[string]func() error{
		"FLAKY": func() error {
			if *tries++; *tries <= failures {
				return errors.New("deliberate")
			}
			return nil
		},
		"FINE": func() error { *fine++; return nil },
	} {
		env := n.Env(kit.Spec{Name: name, Scope: kit.ScopeNode}, "")
		go func() {
			_ = env.Events.Consume(ctx, kit.Consumer{Types: []event.Type{event.OperatorNote.Type()},
				Handle: func(context.Context, event.Record) error { return h() }})
		}()
	}
	if _, err := n.Env(kit.Spec{Name: "X", Scope: kit.ScopeNode}, "").Events.Publish(ctx, event.OperatorNote.Type(),
		event.Note{Subject: event.Subject{NodeID: n.ID}, Text: "x"}, ""); err != nil {
		t.Fatal(err)
	}
	return tries, fine
}

func TestRetryDeliversExactlyThePair(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t)
		n := r.AddNode("a", id.Core, ring.Slots{})
		tries, fine := consume(t, n, 5+2) // the log's own five, and two retries
		n.Start(DLQRetry(), "")
		r.Eventually(time.Hour, "delivered", func() bool { return len(r.Log(event.DLQEventsReplayed.Type())) == 1 })
		if *tries != 8 || *fine != 1 || len(r.Letters()) != 0 {
			t.Errorf("%d tries, the other handler ran %d times, letters %v", *tries, *fine, r.Letters())
		}
	})
}

func TestHopelessPairIsAbandonedAndKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t)
		n := r.AddNode("a", id.Core, ring.Slots{})
		tries, fine := consume(t, n, 1<<30)
		stop := n.Start(DLQRetry(), "")
		time.Sleep(5 * time.Minute)
		_ = stop() // a restart forgets no retry
		n.Start(DLQRetry(), "")
		r.Eventually(24*time.Hour, "abandoned and told", func() bool {
			return len(r.Letters()) == 1 && r.Letters()[0].Abandoned && len(r.Log(event.DLQStaleEvents.Type())) == 1
		})
		time.Sleep(24 * time.Hour)
		if *tries != 10 || *fine != 1 || len(r.Log(event.DLQStaleEvents.Type())) != 1 {
			t.Errorf("%d tries, %d alarms", *tries, len(r.Log(event.DLQStaleEvents.Type())))
		}
	})
}

func TestTriage(t *testing.T) {
	t.Parallel()
	set := DLQRetry().Settings.(DLQSettings)
	now := time.Unix(1e9, 0)
	var list []ring.DeadLetter
	for i := range 15 {
		list = append(list, ring.DeadLetter{ID: fmt.Sprint(i), FirstFailed: now.Add(-2 * time.Hour), LastFailed: now.Add(-2 * time.Hour)})
	}
	list[0].FirstFailed = now.Add(-200 * time.Hour) // too old
	list[1].Abandoned = true                        // already given up
	list[2].LastFailed = now.Add(-30 * time.Second) // too early
	list[3].LastFailed = now.Add(-5 * time.Minute)  // third retry comes after eight minutes
	retry, abandon, waiting := set.triage(list, map[string]int{"3": 3, "4": 5}, now)
	ids := func(l []ring.DeadLetter) (out []string) {
		for _, d := range l {
			out = append(out, d.ID)
		}
		return out
	}
	if !slices.Equal(ids(abandon), []string{"0", "4"}) || len(waiting) != 12 || len(retry) != set.PerCycle || slices.Contains(ids(retry), "2") || slices.Contains(ids(retry), "3") {
		t.Errorf("retry %v, abandon %v, waiting %v", ids(retry), ids(abandon), ids(waiting))
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		p    kit.DaemonProgress
		want int
	}{
		{kit.DaemonProgress{Name: "FRESH", Since: ago(30 * time.Second), Deadline: time.Minute}, 0},
		{kit.DaemonProgress{Name: "NEVER", Since: ago(2 * time.Minute), Deadline: time.Minute}, 1},
		{kit.DaemonProgress{Name: "TICKS", Since: ago(time.Hour), Last: ago(50 * time.Second), Deadline: time.Minute}, 0},
		{kit.DaemonProgress{Name: "HANGS", Since: ago(time.Hour), Last: ago(70 * time.Second), Deadline: time.Minute}, 1},
		{kit.DaemonProgress{Name: "RESTARTED", Since: ago(time.Second), Last: ago(time.Hour), Deadline: time.Minute}, 0},
	} {
		got := judge([]kit.DaemonProgress{c.p}, "SELF", now)
		if len(got) != 1 || got[0].Level != c.want {
			t.Errorf("%s: %+v", c.p.Name, got)
		}
	}
	if got := judge([]kit.DaemonProgress{{Name: "SELF", Deadline: 1}}, "SELF", now); len(got) != 0 {
		t.Error("the watchdog judges itself")
	}
}
