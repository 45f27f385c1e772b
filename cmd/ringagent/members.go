package main

import (
	"io"
	"net/url"
	"regexp"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
)

func membersCommand() *cli.Command {
	return &cli.Command{
		Name:  "members",
		Usage: "list the nodes of the ring as this node sees them",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "status", Usage: "only nodes with `STATUS` alive, suspect, draining, left or failed"},
			&cli.StringFlag{Name: "class", Usage: "only `CLASS` core or edge"},
			&cli.GenericFlag{Name: "tag", Value: &each{}, Usage: "only nodes whose tag `KEY=REGEXP` matches (repeatable)"},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			keep, err := memberFilter(c.String("status"), c.String("class"), given(c, "tag"))
			if err != nil {
				return err
			}
			ctx, cancel := ask(c)
			defer cancel()
			var all api.Members
			if err := client(c).Get(ctx, "/api/v1/members", url.Values{}, &all); err != nil {
				return err
			}
			out := api.Members{Members: []api.Member{}, AsOf: all.AsOf}
			for _, m := range all.Members {
				if keep(m) {
					out.Members = append(out.Members, m)
				}
			}
			return show(c, out, printMembers)
		},
	}
}

func memberFilter(status, class string, tags []string) (func(api.Member) bool, error) {
	switch status {
	case "", "alive", "suspect", "draining", "left", "failed":
	default:
		return nil, usage("--status %q: want alive, suspect, draining, left or failed", status)
	}
	switch class {
	case "", "core", "edge":
	default:
		return nil, usage("--class %q: want core or edge", class)
	}
	type tag struct {
		key  string
		want *regexp.Regexp
	}
	var wanted []tag
	for _, t := range tags {
		k, re, ok := strings.Cut(t, "=")
		if !ok {
			return nil, usage("--tag %q: want KEY=REGEXP", t)
		}
		r, err := regexp.Compile("^(?:" + re + ")$")
		if err != nil {
			return nil, usage("--tag %q: %v", t, err)
		}
		wanted = append(wanted, tag{k, r})
	}
	return func(m api.Member) bool {
		if status != "" && m.Status != status || class != "" && string(m.Class) != class {
			return false
		}
		for _, t := range wanted { // several of one key must all match
			if v, ok := m.Tags[t.key]; !ok || !t.want.MatchString(v) {
				return false
			}
		}
		return true
	}, nil
}

func printMembers(w io.Writer, ms api.Members) {
	t := newTable(w, "NAME", "ID", "ADDRESS", "STATUS", "CLASS", "VOTER", "REACH", "HEALTH", "UNSYNCED", "SEEN", "VERSION")
	for _, m := range ms.Members {
		role := ""
		switch {
		case m.Coordinator:
			role = "coordinator"
		case m.Voter:
			role = "yes"
		}
		t.row(m.Name, m.ID, m.Address, m.Status, m.Class, role, m.Reach, deref(m.Health), deref(m.UnsyncedGames), seconds(m.LastSeenSeconds), m.Version)
	}
	t.flush()
	printAsOf(w, ms.AsOf)
}
