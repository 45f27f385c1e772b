package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
)

func joinCommand() *cli.Command {
	return &cli.Command{
		Name:      "join",
		Usage:     "enrol this machine if need be, then join the ring that SEED belongs to",
		ArgsUsage: "SEED [SEED…]",
		Flags: machineFlags(append([]cli.Flag{
			&cli.StringFlag{Name: "token-file", EnvVars: env("token-file"), Usage: "`FILE` with the join token, - for standard input (or RINGAGENT_TOKEN)"},
			classFlag(),
			&cli.BoolFlag{Name: "enrol-only", EnvVars: env("enrol-only"), Usage: "enrol and end; start the agent later with 'ringagent agent'"},
		}, placeFlags()...)...),
		Action: join,
	}
}

func join(c *cli.Context) error {
	if c.NArg() == 0 {
		return usage("join needs at least one SEED, like 203.0.113.7:8770")
	}
	var seeds []string
	for _, s := range c.Args().Slice() {
		full, err := config.Seed(s)
		if err != nil {
			return usage("join: %v", err)
		}
		seeds = append(seeds, full)
	}
	conf, _, err := machine(c)
	if err != nil {
		return err
	}
	conf.Join = seeds
	if agent.Enrolled(conf.DataDir) {
		ctx, cancel := ask(c)
		defer cancel()
		var out api.Done
		err := client(c).Post(ctx, "/api/v1/join", map[string]any{"seeds": seeds}, &out)
		if api.Absent(err) {
			return runAgent(c, conf) // enrolled, but not running
		}
		if err != nil {
			return err
		}
		return show(c, out, func(w io.Writer, d api.Done) { _, _ = io.WriteString(w, printable(d.Detail)+"\n") })
	}
	token, err := readToken(c)
	var none *api.Error
	if errors.As(err, &none) && none.Code == api.CodeUnauthorised && agent.Granted(conf.DataDir) {
		err = nil // an interrupted join has bought the place already
	}
	if err != nil {
		return err
	}
	class := id.Class("")
	if c.IsSet("class") {
		class = conf.Class
	}
	waits := func(why string) {
		if c.Bool("json") {
			return // only errors are written there
		}
		fmt.Fprintf(c.App.ErrWriter, "%s; waiting up to 30 s for it to be given up\n", printable(why))
	}
	if err := agent.Enrol(c.Context, agent.Enrolment{Config: conf, Seeds: seeds, Token: token, Class: class, Waits: waits}); err != nil {
		return err
	}
	if c.Bool("enrol-only") {
		return show(c, api.Done{OK: true, Detail: "enrolled"}, func(w io.Writer, d api.Done) { _, _ = io.WriteString(w, d.Detail+"\n") })
	}
	conf, _, err = machine(c)
	if err != nil {
		return err
	}
	return runAgent(c, conf)
}

// readToken takes the token from where no other process can read it: never from the argument list.
func readToken(c *cli.Context) (identity.Secret, error) {
	var b []byte
	var err error
	switch f := c.String("token-file"); f {
	case "":
		b = []byte(os.Getenv("RINGAGENT_TOKEN"))
	case "-":
		b, err = io.ReadAll(io.LimitReader(c.App.Reader, 4096))
	default:
		b, err = os.ReadFile(f)
	}
	if err != nil {
		return identity.Secret{}, usage("--token-file: %v", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return identity.Secret{}, api.Errorf(api.CodeUnauthorised, "this machine is not enrolled and there is no join token").
			WithHint("make one on a core node with: ringagent token create; pass it by --token-file FILE or RINGAGENT_TOKEN")
	}
	// Jobs and whatever else this process starts inherit the environment.
	_ = os.Unsetenv("RINGAGENT_TOKEN")
	return identity.NewSecret(token), nil
}
