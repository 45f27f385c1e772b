package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
)

func leaderCommand() *cli.Command {
	return &cli.Command{
		Name:  "leader",
		Usage: "who coordinates the ring, and who votes",
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			ctx, cancel := ask(c)
			defer cancel()
			var l api.Leader
			if err := client(c).Get(ctx, "/api/v1/leader", nil, &l); err != nil {
				return err
			}
			if err := show(c, l, printLeader); err != nil {
				return err
			}
			if l.Coordinator == nil {
				return api.Errorf(api.CodeNoQuorum, "no coordinator is known: %d of %d voters answer, %d are needed", l.AliveVoters, len(l.Voters), l.Quorum)
			}
			return nil
		},
		Subcommands: []*cli.Command{{
			Name:      "transfer",
			Usage:     "hand coordination over, to NODE if one is named",
			ArgsUsage: "[NODE]",
			Action: func(c *cli.Context) error {
				node := ""
				if c.NArg() > 1 {
					return usage("%s takes at most one NODE, got %d", verb(c), c.NArg())
				}
				if c.NArg() > 0 { // an empty name is not to mean anybody
					var err error
					if node, err = oneArg(c, "NODE"); err != nil {
						return err
					}
				}
				return post(c, "/api/v1/leader/transfer", map[string]string{"node": node}, "coordination handed over")
			},
		}, {
			Name:  "recover",
			Usage: "make this node the only voter of a ring that has lost the majority of its voters for good",
			Description: "Every voter that does not answer must be named by --lost; it is shut out of the ring for good, as by force-leave, and\n" +
				"games that only it has are lost. Refused while there is a coordinator, while a majority answers, and where another\n" +
				"core node has a newer log. The ring goes on with what this node knows and takes other core nodes in as voters.",
			Flags: []cli.Flag{&cli.StringSliceFlag{Name: "lost", Usage: "a `NODE` that will not come back; once for each"}},
			Action: func(c *cli.Context) error {
				if err := noArgs(c); err != nil {
					return err
				}
				ctx, cancel := ask(c)
				defer cancel()
				var out api.Recovered
				if err := client(c).Post(ctx, "/api/v1/leader/recover", api.Recover{Lost: c.StringSlice("lost")}, &out); err != nil {
					return err
				}
				return show(c, out, func(w io.Writer, r api.Recovered) {
					fmt.Fprintf(w, "the ring is in generation %d, and %s its only voter", r.Generation, printable(r.Voter))
					if len(r.ShutOut) > 0 {
						fmt.Fprintf(w, "; shut out: %s", printable(strings.Join(r.ShutOut, ", ")))
					}
					fmt.Fprintln(w)
				})
			},
		}},
	}
}

func printLeader(w io.Writer, l api.Leader) {
	name := deref(l.Coordinator)
	if name == "" {
		name = "none known"
	}
	index := deref(l.CommitIndex)
	if index == "" {
		index = "unknown"
	}
	fmt.Fprintf(w, "coordinator        %s\nterm               %d\nvoters             %s\n", name, l.Term, strings.Join(l.Voters, ", "))
	if len(l.Nonvoters) > 0 {
		fmt.Fprintf(w, "non-voters         %s\n", strings.Join(l.Nonvoters, ", "))
	}
	fmt.Fprintf(w, "alive voters       %d of %d (%d needed)\nfailure tolerance  %d\ncommit index       %s\n",
		l.AliveVoters, len(l.Voters), l.Quorum, l.FailureTolerance, index)
	printAsOf(w, l.AsOf)
}

func printAsOf(w io.Writer, a api.AsOf) {
	if s := confirmation(a); s != "" {
		fmt.Fprintf(w, "(%s)\n", s)
	}
}

// confirmation says what an answer is worth that no coordinator confirms; "" of one that is current.
func confirmation(a api.AsOf) string {
	switch {
	case a.AsOf.Unknown:
		return "no coordinator was heard since this node started: what the ring has decided is not known here"
	case a.AsOf.At != nil:
		return fmt.Sprintf("no coordinator confirms this: the copy is %s old", age(*a.AsOf.At))
	}
	return ""
}

// post sends a request whose answer is only that it was done.
func post(c *cli.Context, path string, in any, done string) error {
	ctx, cancel := ask(c)
	defer cancel()
	var out api.Done
	if err := client(c).Post(ctx, path, in, &out); err != nil {
		return err
	}
	if out.Detail == "" {
		out.Detail = done
	}
	return show(c, out, func(w io.Writer, d api.Done) { fmt.Fprintln(w, printable(d.Detail)) })
}
