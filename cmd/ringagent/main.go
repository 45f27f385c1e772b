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
	"regexp"
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
	dropEmptyVariables()
	out := &output{w: stdout}
	app := newApp(stdin, out, stderr)
	if words, asked := completing(args); asked { // whatever the line says, it is not done
		for _, s := range suggestions(app, words) {
			fmt.Fprintln(out, s)
		}
		return 0
	}
	wantJSON := wantsJSON(args)
	normal, err := normalise(app, args, wantJSON)
	if err == nil {
		app.Before = func(c *cli.Context) error {
			wantJSON = c.Bool("json")
			if d := c.Duration("timeout"); d < 0 {
				return usage("--timeout %s: want a duration like 30s, or 0 for none", d)
			}
			for _, f := range []string{"data-dir", "socket"} { // a script's variable that was never set must not mean another agent
				if c.IsSet(f) && c.String(f) == "" {
					return usage("--%s: want a path, got an empty one", f)
				}
			}
			return nil
		}
		err = app.RunContext(ctx, normal)
	}
	if err == nil && out.err != nil {
		err = fmt.Errorf("write the answer: %w", out.err)
	}
	return report(err, wantJSON, stderr)
}

// dropEmptyVariables: whoever writes RINGAGENT_DATA_DIR= has set nothing.
func dropEmptyVariables() {
	for _, kv := range os.Environ() {
		if name, value, _ := strings.Cut(kv, "="); value == "" && strings.HasPrefix(name, "RINGAGENT_") {
			_ = os.Unsetenv(name)
		}
	}
}

// wantsJSON is for errors in words that could not be read to their end.
func wantsJSON(args []string) bool {
	yes, _ := strconv.ParseBool(os.Getenv(env("json")[0]))
	for _, a := range args {
		switch a {
		case "--":
			return yes
		case "--json", "--json=true":
			yes = true
		case "--json=false":
			yes = false
		}
	}
	return yes
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
	e := api.AsError(err)
	exit := e.Exit()
	var coder cli.ExitCoder
	if errors.As(err, &coder) { // the built-in workload's: it knows exit codes, but not ours
		exit = coder.ExitCode()
		e = api.Errorf(codeOf(exit), "%s", coder.Error())
	}
	if asJSON {
		enc := json.NewEncoder(stderr)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(api.Envelope{Error: e})
		return exit
	}
	fmt.Fprintf(stderr, "ringagent: %s\n", printableLines(e.Message))
	if e.Hint != "" {
		fmt.Fprintf(stderr, "  %s\n", printable(e.Hint))
	}
	return exit
}

func codeOf(exit int) api.Code {
	switch exit {
	case 2:
		return api.CodeUsage
	case 4:
		return api.CodeNotFound
	}
	return api.CodeFailed
}

// usage is an error of the caller's words.
func usage(format string, args ...any) error { return api.Errorf(api.CodeUsage, format, args...) }

func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:  "ringagent",
		Usage: "one agent per machine, together a ring that trains game-playing networks by itself",
		Description: "Start on one machine with `ringagent init` and `ringagent agent`, invite others with `ringagent token create`,\n" +
			"and watch with `ringagent status`, `members` and `events tail -f`. `ringagent dev` shows it all on one machine.",
		Flags:          globalFlags(),
		Reader:         stdin,
		Writer:         stdout,
		ErrWriter:      stderr,
		HideVersion:    true,
		ExitErrHandler: func(*cli.Context, error) {}, // run reports; only main ends the process
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return badValue(globalFlags(), err) },
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

// badVariable is how the flag library says that it could not read a flag's environment variable.
var badVariable = regexp.MustCompile(`^could not parse (".*") as \S+ value from environment variable "(\w+)" for flag (\S+): `)

// badValue says what a flag wants, where the flag library only says that it could not read it.
func badValue(flags []cli.Flag, err error) error {
	if m := badVariable.FindStringSubmatch(err.Error()); m != nil {
		return usage("%s=%s: want %s", m[2], m[1], wanted(flags, m[3]))
	}
	value, rest, found := strings.Cut(err.Error(), " for flag -")
	name, _, parse := strings.Cut(rest, ": parse error")
	if !found || !parse {
		return usage("%v", err)
	}
	return usage("%s for flag --%s: want %s", value, name, wanted(flags, name))
}

// wanted is the form of a flag's value.
func wanted(flags []cli.Flag, name string) string {
	switch lookup(flags, name).(type) {
	case *cli.DurationFlag:
		return "a duration like 90s, 5m or 24h"
	case *cli.IntFlag:
		return "a whole number"
	case *cli.Uint64Flag:
		return "a whole number, 0 or more"
	case *cli.BoolFlag:
		return "true or false"
	}
	return "another value"
}
