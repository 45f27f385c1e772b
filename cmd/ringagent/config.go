package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/invopop/jsonschema"
	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/internal/ring"
)

func configCommand() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "the machine's config and the ring's settings",
		Subcommands: []*cli.Command{
			{
				Name: "show", Usage: "print the config, or the ring's settings with --scope ring",
				Flags: machineFlags(
					&cli.BoolFlag{Name: "effective", Usage: "every value, with where it came from"},
					&cli.StringFlag{Name: "scope", Value: "node", Usage: "`SCOPE` node or ring"},
				),
				Action: showConfig,
			},
			{
				Name: "schema", Usage: "the JSON schema of config.yaml",
				Action: func(c *cli.Context) error {
					if err := noArgs(c); err != nil {
						return err
					}
					r := jsonschema.Reflector{FieldNameTag: "yaml", DoNotReference: true, AllowAdditionalProperties: false}
					return printJSON(c.App.Writer, r.Reflect(config.Config{}))
				},
			},
			{
				Name: "apply", Usage: "replace the ring's settings by those of a file", ArgsUsage: "FILE",
				Flags:  []cli.Flag{&cli.BoolFlag{Name: "ring", Usage: "FILE is the ring's settings (there is no other kind to apply)"}},
				Action: applyConfig,
			},
		},
	}
}

func showConfig(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	switch c.String("scope") {
	case "node":
	case "ring":
		ctx, cancel := ask(c)
		defer cancel()
		var s json.RawMessage
		if err := client(c).Get(ctx, "/api/v1/settings", nil, &s); err != nil {
			return err
		}
		return printJSON(c.App.Writer, s)
	default:
		return usage("--scope %q: want node or ring", c.String("scope"))
	}
	conf, origins, err := machine(c)
	if err != nil {
		return err
	}
	if c.Bool("effective") {
		values, err := config.Effective(conf, origins)
		if err != nil {
			return err
		}
		return show(c, map[string]any{"values": values}, func(w io.Writer, _ map[string]any) {
			t := newTable(w, "KEY", "VALUE", "FROM")
			for _, v := range values {
				b, _ := json.Marshal(v.Value)
				t.row(v.Key, string(b), v.Origin)
			}
			t.flush()
		})
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, conf)
	}
	b, err := conf.Marshal()
	if err != nil {
		return err
	}
	_, err = c.App.Writer.Write(b)
	return err
}

// applied is what a ring goes by after config apply.
type applied struct {
	Version  uint64        `json:"version"`
	Settings ring.Settings `json:"settings"`
}

func applyConfig(c *cli.Context) error {
	file, err := oneArg(c, "FILE")
	if err != nil {
		return err
	}
	settings, err := config.LoadRing(file, daemons.CheckSection)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "%v", err)
	}
	ctx, cancel := ask(c)
	defer cancel()
	var out applied
	if err := client(c).Post(ctx, "/api/v1/settings", settings, &out); err != nil {
		return err
	}
	return show(c, out, func(w io.Writer, a applied) { fmt.Fprintf(w, "ring settings are now version %d\n", a.Version) })
}
