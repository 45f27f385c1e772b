package main

import (
	"github.com/urfave/cli/v2"
)

func leaveCommand() *cli.Command {
	return &cli.Command{
		Name:  "leave",
		Usage: "take this node out of the ring; it comes back with `ringagent agent`",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "drain", Usage: "first let running jobs end and push what is unsynced"}},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return post(c, "/api/v1/leave", map[string]bool{"drain": c.Bool("drain")}, "left the ring")
		},
	}
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
