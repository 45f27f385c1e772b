package main

import (
	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/internal/connect4"
)

// workloadCommand holds the built-in workload's stages. The agent runs them as external commands, like anybody's.
func workloadCommand() *cli.Command {
	return &cli.Command{
		Name: "workload", Usage: "the built-in workload's stages", Hidden: true,
		Subcommands: []*cli.Command{connect4.Command()},
	}
}
