package main

import (
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func workCommand() *cli.Command {
	return &cli.Command{
		Name:  "work",
		Usage: "the work queue",
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "the unfinished items and the last 100 finished ones",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "all", Usage: "everything that is kept"},
					&cli.StringFlag{Name: "state", Usage: "only items in `STATE`"},
					&cli.StringFlag{Name: "type", Usage: "only items of `TYPE`"},
				},
				Action: func(c *cli.Context) error {
					if err := noArgs(c); err != nil {
						return err
					}
					q := url.Values{}
					if c.Bool("all") {
						q.Set("all", "true")
					}
					for _, f := range []string{"state", "type"} {
						if v := c.String(f); v != "" {
							q.Set(f, v)
						}
					}
					ctx, cancel := ask(c)
					defer cancel()
					var out api.WorkList
					if err := client(c).Get(ctx, "/api/v1/work", q, &out); err != nil {
						return err
					}
					return show(c, out, printWork)
				},
			},
			{
				Name: "show", Usage: "one item, whole", ArgsUsage: "ID",
				Action: func(c *cli.Context) error {
					id, err := idArg(c, "work ID")
					if err != nil {
						return err
					}
					ctx, cancel := ask(c)
					defer cancel()
					var out api.WorkRow
					if err := client(c).Get(ctx, "/api/v1/work/"+url.PathEscape(id), nil, &out); err != nil {
						return err
					}
					return printJSON(c.App.Writer, out)
				},
			},
			{
				Name: "add", Usage: "queue one run of a stage of the workload", ArgsUsage: "TYPE",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "config", Usage: "the `CONFIG`, like connect4_2p", Required: true},
					&cli.StringFlag{Name: "key", Usage: "the same `KEY` again gives the same item"},
					&cli.IntFlag{Name: "priority", Value: 50, Usage: "0 to 100, higher first"},
					&cli.GenericFlag{Name: "param", Value: &each{}, Usage: "`NAME=VALUE` of games, seed, simulations, epochs or opponents (repeatable)"},
					&cli.GenericFlag{Name: "input", Value: &each{}, Usage: "`ROLE=SHA256` of an artifact; ROLE candidate, champion, model, dataset or pack (repeatable)"},
				},
				Action: addWork,
			},
			{
				Name: "cancel", Usage: "end an unfinished item", ArgsUsage: "ID",
				Flags: []cli.Flag{&cli.StringFlag{Name: "reason", Value: "cancelled by an operator", Usage: "why"}},
				Action: func(c *cli.Context) error {
					id, err := idArg(c, "work ID")
					if err != nil {
						return err
					}
					return post(c, "/api/v1/work/"+url.PathEscape(id)+"/cancel", map[string]string{"reason": c.String("reason")}, "cancelled")
				},
			},
			{
				Name: "retry", Usage: "queue a failed, dead or cancelled item again", ArgsUsage: "ID",
				Action: func(c *cli.Context) error {
					id, err := idArg(c, "work ID")
					if err != nil {
						return err
					}
					return post(c, "/api/v1/work/"+url.PathEscape(id)+"/retry", struct{}{}, "queued again")
				},
			},
		},
	}
}

func addWork(c *cli.Context) error {
	typ, err := oneArg(c, "TYPE")
	if err != nil {
		return err
	}
	config, err := id.ParseConfig(c.String("config"))
	if err != nil {
		return usage("--config: %v", err)
	}
	if p := c.Int("priority"); p < 0 || p > 100 {
		return usage("--priority %d: want 0 to 100", p)
	}
	p := c.Int("priority")
	in := api.AddWork{Type: typ, Config: config, Key: c.String("key"), Priority: &p, Params: map[string]string{}}
	for _, kv := range given(c, "param") {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return usage("--param %q: want NAME=VALUE", kv)
		}
		if old, ok := in.Params[k]; ok {
			return usage("--param %s: is given twice, as %q and %q", k, old, v)
		}
		in.Params[k] = v
	}
	for _, kv := range given(c, "input") {
		role, v, ok := strings.Cut(kv, "=")
		d, err := id.ParseDigest(v)
		if !ok || role == "" || err != nil {
			return usage("--input %q: want ROLE=SHA256 with 64 hex digits", kv)
		}
		in.Inputs = append(in.Inputs, ring.Input{Role: role, Digest: d})
	}
	ctx, cancel := ask(c)
	defer cancel()
	var out api.WorkRow
	if err := client(c).Post(ctx, "/api/v1/work", in, &out); err != nil {
		return err
	}
	return show(c, out, func(w io.Writer, r api.WorkRow) { fmt.Fprintf(w, "%s is %s\n", r.ID, r.State) })
}

func printWork(w io.Writer, l api.WorkList) {
	t := newTable(w, "ID", "TYPE", "CONFIG", "STATE", "PRIO", "TRIES", "NODE", "AGE", "ERROR")
	for _, r := range l.Work {
		t.row(r.ID, r.Type, r.Config, r.State, r.Priority, r.Attempts, deref(r.ClaimedBy), age(r.Created), r.Error)
	}
	t.flush()
	printAsOf(w, l.AsOf)
}
