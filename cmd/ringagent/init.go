package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/daemons"
)

func initCommand() *cli.Command {
	return &cli.Command{
		Name:  "init",
		Usage: "make a new ring with this machine as its first voter",
		Flags: machineFlags(
			&cli.StringFlag{Name: "ring", EnvVars: env("ring"), Value: "ring", Usage: "the ring's `NAME`"},
			&cli.StringFlag{Name: "ring-config", EnvVars: env("ring-config"), Usage: "the ring settings `FILE`: workload, configs, voters, daemons"},
		),
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			conf, _, err := machine(c)
			if err != nil {
				return err
			}
			settings := config.DefaultRing()
			if f := c.String("ring-config"); f != "" {
				if settings, err = config.LoadRing(f, daemons.CheckSection); err != nil {
					return api.Errorf(api.CodeInvalid, "%v", err)
				}
			}
			made, err := agent.Init(c.String("ring"), conf, settings)
			if err != nil {
				return err
			}
			return show(c, made, func(w io.Writer, m agent.Made) {
				fmt.Fprintf(w, "ring %s (%s) made; %s is its first node\nstart it with: ringagent agent --data-dir %s\n", m.Ring, m.RingID, m.Node, m.DataDir)
			})
		},
	}
}
