package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent"
)

type versionInfo struct {
	Version      string `json:"version"`
	Commit       string `json:"commit"`
	Go           string `json:"go"`
	Protocol     int    `json:"protocol"`
	StateVersion int    `json:"state_version"`
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "what this binary is; ringagent --version says the same",
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			v := versionInfo{Version: agent.Version, Commit: agent.Commit(), Go: runtime.Version(), Protocol: agent.Protocol, StateVersion: agent.StateVersion}
			return show(c, v, func(w io.Writer, v versionInfo) {
				fmt.Fprintf(w, "ringagent %s (commit %s, %s, protocol %d, state version %d)\n", v.Version, short(v.Commit), v.Go, v.Protocol, v.StateVersion)
			})
		},
	}
}
