package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
)

func env(flag string) []string {
	return []string{"RINGAGENT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
}

func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "data-dir", EnvVars: env("data-dir"), Value: defaultDataDir(), Usage: "the agent's `DIR`"},
		&cli.StringFlag{Name: "socket", EnvVars: env("socket"), Usage: "the agent's Unix socket `PATH` (default: <data-dir>/agent.sock)"},
		&cli.BoolFlag{Name: "json", EnvVars: env("json"), Usage: "print JSON for machines"},
		&cli.DurationFlag{Name: "timeout", EnvVars: env("timeout"), Value: 30 * time.Second, Usage: "give up on an answer after `D`"},
	}
}

func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/ringagent"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "ringagent-data"
	}
	return filepath.Join(home, ".local", "share", "ringagent")
}

// each holds the values of a flag that may be given several times. The library's own lists would cut a value at its commas.
type each []string

// Set implements flag.Value.
func (e *each) Set(v string) error {
	*e = append(*e, v)
	return nil
}

// String implements flag.Value.
func (e *each) String() string { return strings.Join(*e, " ") }

func given(c *cli.Context, flag string) []string {
	e, ok := c.Generic(flag).(*each)
	if !ok {
		return nil
	}
	return *e
}

func socketPath(c *cli.Context) string {
	if s := c.String("socket"); s != "" {
		return s
	}
	return filepath.Join(c.String("data-dir"), "agent.sock")
}

func client(c *cli.Context) *api.Client { return api.NewClient(socketPath(c)) }

// ask is a request's context: the process's, ended by --timeout.
func ask(c *cli.Context) (context.Context, context.CancelFunc) {
	d := c.Duration("timeout")
	if d <= 0 {
		return context.WithCancel(c.Context)
	}
	return context.WithTimeout(c.Context, d)
}

// verb is the command as its reader typed it; the program's name stands before every error anyway.
func verb(c *cli.Context) string { return strings.TrimPrefix(c.Command.HelpName, "ringagent ") }

// noArgs refuses arguments where a verb takes none.
func noArgs(c *cli.Context) error {
	if c.NArg() > 0 {
		return usage("%s takes no argument, got %q", verb(c), c.Args().First())
	}
	return nil
}

// oneArg is the verb's only argument.
func oneArg(c *cli.Context, name string) (string, error) {
	if c.NArg() != 1 {
		return "", usage("%s needs exactly one %s, got %d", verb(c), name, c.NArg())
	}
	if c.Args().First() == "" { // such as a script's variable that was never set
		return "", usage("%s needs a %s, got an empty one", verb(c), name)
	}
	return c.Args().First(), nil
}

// idArg is oneArg for what becomes a part of a path that the agent is asked for.
func idArg(c *cli.Context, name string) (string, error) {
	s, err := oneArg(c, name)
	if s == "." || s == ".." {
		err = usage("%s: %q is no %s", verb(c), s, name)
	}
	return s, err
}
