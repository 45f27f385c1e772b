package main

import (
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "one screen: quorum, members, singletons, queue, lag, alarms, next step",
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			ctx, cancel := ask(c)
			defer cancel()
			var s api.Status
			if err := client(c).Get(ctx, "/api/v1/status", nil, &s); err != nil {
				return err
			}
			return show(c, s, printStatus)
		},
	}
}

func printStatus(w io.Writer, s api.Status) {
	quorum := "ok"
	if !s.QuorumOK {
		quorum = "LOST: nothing can be decided, playing goes on"
	}
	coordinator := deref(s.Coordinator)
	if coordinator == "" {
		coordinator = "none known"
	}
	lag := "unknown"
	if s.Events.Lag != nil {
		lag = fmt.Sprint(*s.Events.Lag)
	}
	fmt.Fprintf(w, "ring         %s, seen from %s\nquorum       %s\ncoordinator  %s\nmembers      %s\ndaemons      %s\nwork         %s\nevents       last %d, lag %s\n",
		s.Ring, s.Node, quorum, coordinator, counts(s.Members), counts(s.Daemons), knownCounts(s.Work), s.Events.LastSeq, lag)
	if len(s.Singletons) > 0 {
		fmt.Fprintln(w)
		t := newTable(w, "SINGLETON", "STATE", "NODE", "EPOCH", "STANDBY")
		for _, d := range s.Singletons {
			t.row(d.Name, d.State, deref(d.Node), deref(d.Epoch), deref(d.Standby))
		}
		t.flush()
	}
	for _, d := range s.Degraded {
		fmt.Fprintf(w, "\ndegraded: %s\n", printable(d))
	}
	for _, a := range s.Alarms {
		fmt.Fprintf(w, "\nALARM %s (%s): %s\n", a.Code, age(a.Since), printable(a.Message))
	}
	if s.NextStep != "" {
		fmt.Fprintf(w, "\nnext: %s\n", s.NextStep)
	}
	printAsOf(w, s.AsOf)
}

func counts(m map[string]int) string {
	keys := make([]string, 0, len(m))
	for k, n := range m {
		if n > 0 {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	for i, k := range keys {
		keys[i] = fmt.Sprintf("%d %s", m[k], k)
	}
	if len(keys) == 0 {
		return "-"
	}
	return strings.Join(keys, ", ")
}

// knownCounts is counts where they may be unknown.
func knownCounts(m map[string]*int) string {
	known := map[string]int{}
	for k, n := range m {
		if n != nil {
			known[k] = *n
		}
	}
	if len(known) == 0 {
		return "unknown"
	}
	return counts(known)
}
