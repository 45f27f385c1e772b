// Command ringagent is the one binary of a training ring: the agent that runs on each machine, and the command line with
// which people and scripts talk to it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/proc"
)

func main() {
	// The shim is started by the agent itself for every job; it must come up before anything of the command line does.
	if len(os.Args) > 1 && os.Args[1] == shimVerb {
		os.Exit(proc.ShimMain(os.Args[2:]))
	}
	// With somebody listening for SIGPIPE a write to a closed stdout is an error, see report, and does not end the process; with
	// it ignored, the commands that an agent runs would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		// The first signal asks everything to end; with the handler gone again, a second one ends the process at once.
		<-ctx.Done()
		stop()
	}()
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

const shimVerb = "job-shim"

// run is the whole program but for the process itself, so that tests can call it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := newApp(stdin, stdout, stderr)
	wantJSON := false
	normal, err := normalise(app, args)
	if err == nil {
		app.Before = func(c *cli.Context) error {
			wantJSON = c.Bool("json")
			if d := c.Duration("timeout"); d < 0 {
				return usage("--timeout %s: want a duration like 30s, or 0 for none", d)
			}
			return nil
		}
		err = app.RunContext(ctx, normal)
	} else {
		wantJSON, _ = strconv.ParseBool(os.Getenv(env("json")[0]))
		for _, a := range args {
			wantJSON = wantJSON || a == "--json"
		}
	}
	return report(err, wantJSON, stderr)
}

// report prints an error the way its reader wants it and returns the exit code.
func report(err error, asJSON bool, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	if errors.Is(err, syscall.EPIPE) {
		return 0 // whoever read us has seen enough
	}
	if errors.Is(err, context.Canceled) {
		return 130
	}
	var coder cli.ExitCoder
	if errors.As(err, &coder) {
		if msg := coder.Error(); msg != "" {
			fmt.Fprintln(stderr, msg)
		}
		return coder.ExitCode()
	}
	e := api.AsError(err)
	if asJSON {
		b, _ := json.Marshal(api.Envelope{Error: e})
		fmt.Fprintf(stderr, "%s\n", b)
		return e.Exit()
	}
	fmt.Fprintf(stderr, "ringagent: %s\n", printable(e.Message))
	if e.Hint != "" {
		fmt.Fprintf(stderr, "  %s\n", printable(e.Hint))
	}
	return e.Exit()
}

// usage is an error of the caller's words.
func usage(format string, args ...any) error { return api.Errorf(api.CodeUsage, format, args...) }

func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:  "ringagent",
		Usage: "one agent per machine, together a ring that trains game-playing networks by itself",
		Description: "Start on one machine with `ringagent init` and `ringagent agent`, invite others with `ringagent token create`,\n" +
			"and watch with `ringagent status`, `members` and `events tail -f`. `ringagent dev` shows it all on one machine.",
		Flags:                globalFlags(),
		Reader:               stdin,
		Writer:               stdout,
		ErrWriter:            stderr,
		HideVersion:          true,
		EnableBashCompletion: true,
		ExitErrHandler:       func(*cli.Context, error) {}, // run reports; only main ends the process
		OnUsageError:         func(_ *cli.Context, err error, _ bool) error { return badValue(globalFlags(), err) },
		Commands: []*cli.Command{
			initCommand(), agentCommand(), tokenCommand(), joinCommand(), leaveCommand(), forceLeaveCommand(),
			membersCommand(), leaderCommand(), statusCommand(), daemonsCommand(), daemonCommand(), eventsCommand(),
			dlqCommand(), workCommand(), dataCommand(), gamesCommand(), modelsCommand(), eloCommand(), configCommand(),
			validateCommand(), devCommand(), workloadCommand(), completionCommand(), versionCommand(),
		},
	}
	for _, c := range app.Commands {
		quiet(c)
	}
	return app
}

// quiet makes usage errors of c and what is below it errors like any others, instead of a page of help.
func quiet(c *cli.Command) {
	c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return badValue(c.Flags, err) }
	for _, s := range c.Subcommands {
		quiet(s)
	}
}

// badValue says what a flag wants, where the flag library only says that it could not read it.
func badValue(flags []cli.Flag, err error) error {
	value, rest, found := strings.Cut(err.Error(), " for flag -")
	name, _, parse := strings.Cut(rest, ": parse error")
	if !found || !parse {
		return usage("%v", err)
	}
	want := "another value"
	switch lookup(flags, name).(type) {
	case *cli.DurationFlag:
		want = "a duration like 90s, 5m or 24h"
	case *cli.IntFlag, *cli.Uint64Flag:
		want = "a whole number"
	case *cli.BoolFlag:
		want = "true or false"
	}
	return usage("%s for flag --%s: want %s", value, name, want)
}
