package agent_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/internal/connect4"
	"github.com/ringagent/ringagent/internal/proc"
)

// The test binary is also the shim of the jobs that it starts, and the built-in workload. Rings wait most of
// the time, for elections, leases and limits, so a few run beside each other; more than four at a time on a small machine
// measure the machine.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 2 && os.Args[1] == "job-shim":
		os.Exit(proc.ShimMain(os.Args[2:]))
	case len(os.Args) > 2 && os.Args[1] == "workload":
		app := &cli.App{Commands: []*cli.Command{{Name: "workload", Subcommands: []*cli.Command{connect4.Command()}}}}
		if err := app.Run(os.Args); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "4")
	os.Exit(m.Run())
}
