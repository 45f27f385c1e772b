package main

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
)

func leaveCommand() *cli.Command {
	return &cli.Command{
		Name:  "leave",
		Usage: "take this node out of the ring; it comes back with `ringagent agent`",
		Description: "What the node holds goes first: its jobs are ended and handed back, and its finished games are pushed to others.\n" +
			"It answers once the node has left, with exit code 7 if games are, or may be, on this machine only.\n" +
			"Interrupting it before calls the departure off.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "drain", Usage: "let running jobs come to their own end first"},
			&cli.DurationFlag{Name: "limit", Usage: "with --drain: for at most `D`; what runs then is handed back", Value: 10 * time.Minute},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			in := api.Leave{Drain: c.Bool("drain")}
			if c.IsSet("limit") {
				if !in.Drain {
					return usage("leave: --limit is for --drain")
				}
				limit := c.Duration("limit").Seconds()
				in.LimitSeconds = &limit
			}
			// The agent has limits of its own, and they are longer than an answer usually takes.
			ctx, cancel := askLong(c, asLongAsItTakes)
			defer cancel()
			stop := progress(c, noMore)
			var out api.Departure
			err := client(c).Post(ctx, "/api/v1/leave", in, &out)
			if stop(); err != nil {
				return err
			}
			if err := show(c, out, func(w io.Writer, d api.Departure) { fmt.Fprintln(w, printable(d.Detail)) }); err != nil {
				return err
			}
			return leftBehind(out)
		},
	}
}

// leftBehind is the error of a departure after which the machine must not be given away yet.
func leftBehind(d api.Departure) error {
	const hint = "keep the machine; start the agent on it again to bring them out"
	switch {
	case d.UnsyncedGames == nil:
		return api.Errorf(api.CodePartial, "left the ring, but it is not known whether finished games are on this machine only").WithHint(hint)
	case *d.UnsyncedGames > 0:
		return api.Errorf(api.CodePartial, "left the ring, but %d finished games are on this machine only", *d.UnsyncedGames).WithHint(hint)
	}
	return nil
}

func forceLeaveCommand() *cli.Command {
	return &cli.Command{
		Name:      "force-leave",
		Usage:     "shut a node out for good: its certificate is revoked",
		ArgsUsage: "NODE",
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "prune", Usage: "forget it, too"}},
		Action: func(c *cli.Context) error {
			node, err := oneArg(c, "NODE")
			if err != nil {
				return err
			}
			return post(c, "/api/v1/force-leave", map[string]any{"node": node, "prune": c.Bool("prune")}, node+" is shut out")
		},
	}
}
