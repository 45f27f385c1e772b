package main

import (
	"fmt"
	"io"
	"net/url"
	"sort"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
)

func daemonsCommand() *cli.Command {
	return &cli.Command{
		Name:  "daemons",
		Usage: "list the daemons of this node and every singleton",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "node", Usage: "the daemons of `NODE` instead"},
			&cli.BoolFlag{Name: "all", Usage: "of every node"},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			if c.Bool("all") && c.String("node") != "" {
				return usage("daemons: --all and --node exclude each other")
			}
			q := url.Values{}
			if c.Bool("all") {
				q.Set("all", "true")
			}
			if n := c.String("node"); n != "" {
				q.Set("node", n)
			}
			ctx, cancel := ask(c)
			defer cancel()
			var d api.Daemons
			if err := client(c).Get(ctx, "/api/v1/daemons", q, &d); err != nil {
				return err
			}
			if err := show(c, d, printDaemons); err != nil {
				return err
			}
			if !d.AsOf.AsOf.IsZero() && !c.Bool("all") && c.String("node") == "" {
				return nil // without quorum this is all that can be told
			}
			for _, r := range d.Daemons {
				if r.State == "unknown" && r.Node == nil {
					return api.Errorf(api.CodePartial, "it is not known here who runs %s: no coordinator was heard since this node started", r.Name)
				}
				if r.State == "unknown" {
					return api.Errorf(api.CodePartial, "node %s does not answer; its rows are unknown", deref(r.Node))
				}
			}
			return nil
		},
	}
}

func printDaemons(w io.Writer, d api.Daemons) {
	t := newTable(w, "NAME", "SCOPE", "STATE", "NODE", "EPOCH", "STANDBY", "SINCE", "RESTARTS", "PROGRESS", "NOTE")
	for _, r := range d.Daemons {
		since := ""
		if r.Since != nil {
			since = age(*r.Since)
		}
		note := r.LastError
		if len(r.BlockedOn) > 0 {
			note = strings.Join(r.BlockedOn, "; ")
		}
		if r.AliasOf != nil {
			note = "deprecated name of " + *r.AliasOf
		}
		t.row(r.Name, r.Scope, r.State, deref(r.Node), deref(r.Epoch), deref(r.Standby), since, r.Restarts, seconds(r.LastProgressSeconds), note)
	}
	t.flush()
	printAsOf(w, d.AsOf)
}

func daemonCommand() *cli.Command {
	verb := func(name, does, done string) *cli.Command {
		return &cli.Command{
			Name: name, Usage: does, ArgsUsage: "NAME",
			Flags: []cli.Flag{&cli.StringFlag{Name: "node", Usage: "on `NODE` instead of this one"}},
			Action: func(c *cli.Context) error {
				n, err := idArg(c, "daemon NAME")
				if err != nil {
					return err
				}
				n = strings.ToUpper(n)
				return post(c, "/api/v1/daemons/"+url.PathEscape(n)+"/"+name, map[string]string{"node": c.String("node")}, n+" "+done)
			},
		}
	}
	return &cli.Command{
		Name:  "daemon",
		Usage: "start, stop, restart or explain one daemon",
		Subcommands: []*cli.Command{
			verb("start", "let it run again: a singleton in the whole ring, another on this node", "may run"),
			verb("stop", "stop it until it is started again: a singleton in the whole ring, another on this node", "stopped"),
			verb("restart", "end it and start it anew", "restarting"),
			{
				Name: "explain", Usage: "why it runs where it runs, or why not", ArgsUsage: "NAME",
				Flags: []cli.Flag{&cli.StringFlag{Name: "node", Usage: "as `NODE` sees it"}},
				Action: func(c *cli.Context) error {
					n, err := idArg(c, "daemon NAME")
					if err != nil {
						return err
					}
					ctx, cancel := ask(c)
					defer cancel()
					var e api.Explanation
					q := url.Values{}
					if n := c.String("node"); n != "" {
						q.Set("node", n)
					}
					if err := client(c).Get(ctx, "/api/v1/daemons/"+url.PathEscape(strings.ToUpper(n))+"/explain", q, &e); err != nil {
						return err
					}
					return show(c, e, printExplanation)
				},
			},
		},
	}
}

func printExplanation(w io.Writer, e api.Explanation) {
	fmt.Fprintf(w, "%s (%s scope) is %s", e.Daemon.Name, e.Daemon.Scope, e.Daemon.State)
	if e.Daemon.Node != nil {
		fmt.Fprintf(w, " on %s", *e.Daemon.Node)
	}
	fmt.Fprintln(w)
	for _, y := range e.Why {
		fmt.Fprintf(w, "  %s\n", printable(y))
	}
	names := make([]string, 0, len(e.Nodes))
	for n := range e.Nodes {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Fprintf(w, "  %s: %s\n", n, printable(e.Nodes[n]))
	}
}
