package main

import (
	"fmt"
	"io"
	"net/url"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/ring"
)

func dlqCommand() *cli.Command {
	act := func(name, does, done string) *cli.Command {
		return &cli.Command{Name: name, Usage: does, ArgsUsage: "ID", Action: func(c *cli.Context) error {
			id, err := idArg(c, "dead letter ID")
			if err != nil {
				return err
			}
			return post(c, "/api/v1/dlq/"+url.PathEscape(id)+"/"+name, struct{}{}, done)
		}}
	}
	return &cli.Command{
		Name:  "dlq",
		Usage: "dead letters: events that a handler could not take",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list them", Action: func(c *cli.Context) error {
				if err := noArgs(c); err != nil {
					return err
				}
				out, err := letters(c)
				if err != nil {
					return err
				}
				return show(c, out, func(w io.Writer, d api.DeadLetters) {
					t := newTable(w, "ID", "SEQ", "TYPE", "HANDLER", "NODE", "ATTEMPTS", "LAST", "ERROR")
					for _, l := range d.DeadLetters {
						t.row(l.ID, l.Seq, l.Type, l.Handler, l.Node, l.Attempts, age(l.LastFailed), l.Error)
					}
					t.flush()
					if d.OnlyHere {
						fmt.Fprintln(w, "(only those of this node's own handlers: those of singletons are not known here)")
					}
				})
			}},
			{Name: "show", Usage: "one of them, whole", ArgsUsage: "ID", Action: func(c *cli.Context) error {
				id, err := idArg(c, "dead letter ID")
				if err != nil {
					return err
				}
				all, err := letters(c)
				if err != nil {
					return err
				}
				for _, l := range all.DeadLetters {
					if l.ID == id {
						return show(c, l, func(w io.Writer, l ring.DeadLetter) {
							fmt.Fprintf(w, "%s\nevent    %s, seq %d, %s\nhandler  %s on %s\nfailed   %d times, first %s ago, last %s ago\nerror    %s\n",
								l.ID, l.EventID, l.Seq, l.Type, l.Handler, l.Node, l.Attempts, age(l.FirstFailed), age(l.LastFailed), printable(l.Error))
						})
					}
				}
				return api.Errorf(api.CodeNotFound, "no dead letter %q", id)
			}},
			act("retry", "run exactly that handler on that event again", "handled"),
			act("drop", "give it up", "dropped"),
		},
	}
}

func letters(c *cli.Context) (api.DeadLetters, error) {
	ctx, cancel := ask(c)
	defer cancel()
	var out api.DeadLetters
	err := client(c).Get(ctx, "/api/v1/dlq", nil, &out)
	return out, err
}
