package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"sort"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/agent/dev"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/deploy/workloads"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/workload"
)

func devCommand() *cli.Command {
	return &cli.Command{
		Name:  "dev",
		Usage: "a ring of real agents on this machine, playing and training the built-in game",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "nodes", Value: 5, Usage: "how `MANY`; the first three are core nodes, the others edge"},
			&cli.StringFlag{Name: "dir", Value: "ringagent-dev", Usage: "the `FOLDER`; a ring of its own found there is continued"},
			&cli.StringFlag{Name: "workload", Usage: "the workload `FILE` (default: the built-in connect4)"},
			&cli.DurationFlag{Name: "for", Usage: "end by itself after `D`, like 3m, and sum up"},
			&cli.IntFlag{Name: "base-port", Value: config.DefaultPort, Usage: "node i listens on 127.0.0.1:(`PORT`+i), or the next free port"},
		},
		Action: runDev,
	}
}

func runDev(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if n := c.Int("nodes"); n < 1 || n > 50 {
		return usage("--nodes %d: want 1 to 50", n)
	}
	if p := c.Int("base-port"); p < 1 || p > 65000 {
		return usage("--base-port %d: want 1 to 65000", p)
	}
	if c.Duration("for") < 0 {
		return usage("--for %s: want a positive duration", c.Duration("for"))
	}
	settings, err := devSettings(c.String("workload"))
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	out := c.App.Writer
	if c.Bool("json") {
		out = c.App.ErrWriter // the last line of stdout is the summary
	}
	ctx, stop := untilHangup(c.Context, signal.Ignored(syscall.SIGHUP))
	defer stop()
	s, runErr := dev.Run(ctx, dev.Options{
		Dir: c.String("dir"), Nodes: c.Int("nodes"), BasePort: c.Int("base-port"), For: c.Duration("for"), Settings: settings,
		Self: self, Progress: func(line string) { fmt.Fprintln(out, line) },
	})
	if runErr != nil && s.Seconds == 0 {
		return runErr
	}
	if c.Bool("json") {
		b, err := json.Marshal(s)
		if err != nil {
			return fmt.Errorf("encode summary: %w", err)
		}
		fmt.Fprintf(c.App.Writer, "%s\n", b)
		return runErr
	}
	fmt.Fprintf(out, "\n%s: %d games, %d generations, %d promotions\n", time.Duration(s.Seconds*float64(time.Second)).Round(time.Second), s.Games, s.Generations, s.Promotions)
	names := make([]string, 0, len(s.Ratings))
	for n := range s.Ratings {
		names = append(names, n)
	}
	sort.Slice(names, func(i, j int) bool { return s.Ratings[names[i]] > s.Ratings[names[j]] })
	for _, n := range names {
		fmt.Fprintf(out, "  %-14s Elo %.0f\n", short(n), s.Ratings[n])
	}
	return runErr
}

// untilHangup ends with ctx or when the terminal goes, as a signal does to dev: its agents live in process groups of their own and
// would stay. Further hangups are passed over, for the agents are being stopped then; under nohup all are.
func untilHangup(ctx context.Context, ignored bool) (context.Context, context.CancelFunc) {
	if ignored {
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, syscall.SIGHUP)
}

// devSettings are the ring settings of a new dev ring: its own timing and the smaller thresholds that daemons keep for it.
func devSettings(file string) (ring.Settings, error) {
	text := workloads.Connect4
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return ring.Settings{}, usage("--workload: %v", err)
		}
		text = string(b)
	}
	w, err := workload.Parse([]byte(text), "workload")
	if err != nil {
		return ring.Settings{}, api.Errorf(api.CodeInvalid, "--workload: %v", err)
	}
	s := config.DefaultRing()
	s.Timing, s.Voters, s.Workload, s.Configs, s.Daemons = ring.TimingDev, 3, text, w.Configs, daemons.DevOverlay()
	return s, config.CheckRing(s)
}
