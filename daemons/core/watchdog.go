package core

import (
	"context"
	"fmt"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
)

// Watchdog is DAEMON_WATCHDOG.
func Watchdog() kit.Spec {
	const name = "DAEMON_WATCHDOG"
	s := kit.Spec{
		Name: name, Category: "core", Scope: kit.ScopeNode, DependsOn: []string{"EVENT_ROUTER"}, Every: 30 * time.Second, Critical: true,
		Doc:   "Cancels daemons that run and make no progress, so that the supervisor starts them anew.",
		Emits: []event.Type{event.DaemonStatusChanged.Type()},
	}
	s.New = func(env kit.Env) (kit.Daemon, error) {
		return kit.NewMonitor(env, kit.Monitor{
			Sample: func(context.Context) ([]kit.Reading, error) {
				return judge(env.Daemons.Running(), name, env.Now()), nil
			},
			Better: 1,
			Changed: func(ctx context.Context, r kit.Reading, _ int) error {
				if r.Level == 0 {
					return nil // it moves again by itself
				}
				env.Daemons.Cancel(r.Key, r.Reasons[0])
				_, err := env.Events.Publish(ctx, event.DaemonStatusChanged.Type(), kit.Stamp(env.Self,
					event.DaemonStatus{Daemon: r.Key, State: "STUCK", Reason: r.Reasons[0]}), "")
				if err != nil {
					return fmt.Errorf("publish: %w", err)
				}
				return nil
			},
		}), nil
	}
	return s
}

// judge reads level 1 for every running daemon that has made no progress for longer than its deadline. The watchdog does
// not judge itself: while it can judge, it works.
func judge(running []kit.DaemonProgress, self string, now time.Time) []kit.Reading {
	var out []kit.Reading
	for _, p := range running {
		if p.Name == self || p.Deadline <= 0 {
			continue
		}
		last := p.Since
		if p.Last.After(last) {
			last = p.Last
		}
		// A restart is another subject: it is judged anew even if it hangs at once.
		r := kit.Reading{Key: p.Name}
		if idle := now.Sub(last); idle > p.Deadline {
			r.Level = 1
			r.Reasons = []string{fmt.Sprintf("no progress for %v, the deadline is %v", idle.Round(time.Second), p.Deadline)}
		}
		out = append(out, r)
	}
	return out
}
