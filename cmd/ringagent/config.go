package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent"
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
				Flags: machineFlags(append([]cli.Flag{
					&cli.BoolFlag{Name: "effective", Usage: "every value in force, with where it came from"},
					&cli.StringFlag{Name: "scope", Value: "node", Usage: "`SCOPE` node or ring"},
					joinFlag(), classFlag(),
				}, placeFlags()...)...),
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
				Description: "The file takes the place of all settings: what it does not name goes back to its default. A workload is not\n" +
					"taken away by leaving it out.",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "ring", Usage: "FILE is the ring's settings (there is no other kind to apply)"},
					&cli.BoolFlag{Name: "without-workload", Usage: "take the ring's workload away, if FILE names none"},
				},
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
		if c.Bool("effective") {
			return usage("config show: --effective is for --scope node; the ring's settings all come from the ring")
		}
		ctx, cancel := ask(c)
		defer cancel()
		var s json.RawMessage
		if err := client(c).Get(ctx, "/api/v1/settings", nil, &s); err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, s)
		}
		return showRing(c.App.Writer, s)
	default:
		return usage("--scope %q: want node or ring", c.String("scope"))
	}
	conf, origins, err := machine(c)
	if err != nil {
		return err
	}
	if c.Bool("effective") {
		values, err := config.Effective(inForce(conf, origins))
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

// inForce completes a config by what an agent does not take from it: where its token is if nobody says, and who it is once it
// belongs to a ring.
func inForce(conf config.Config, origins config.Origins) (config.Config, config.Origins) {
	conf.API.TokenFile = conf.TokenPath()
	if name, class, file, ok := agent.Bearer(conf.DataDir); ok {
		conf.NodeName, conf.Class = name, class
		origins["node_name"], origins["class"] = file, file
	}
	return conf, origins
}

// showRing prints the settings as a file of them, and the workload below.
func showRing(w io.Writer, raw json.RawMessage) error {
	var a applied
	if err := json.Unmarshal(raw, &a); err != nil {
		return fmt.Errorf("read ring settings: %w", err)
	}
	b, err := config.MarshalRing(a.Settings)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "# ring settings, version %d\n", a.Version)
	if s := confirmation(a.AsOf); s != "" {
		fmt.Fprintf(w, "# %s\n", s)
	}
	fmt.Fprintf(w, "%s", b)
	if a.Settings.Workload != "" {
		fmt.Fprintf(w, "# workload: FILE names it; its text in the ring is:\n---\n%s", a.Settings.Workload)
	}
	return nil
}

// applied is what a ring goes by after config apply.
type applied struct {
	Version  uint64        `json:"version"`
	Settings ring.Settings `json:"settings"`
	api.AsOf
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
	var old, out applied
	if err := client(c).Get(ctx, "/api/v1/settings", nil, &old); err != nil {
		return err
	}
	if old.Settings.Workload != "" && settings.Workload == "" && !c.Bool("without-workload") {
		return api.Errorf(api.CodeRefused, "%s names no workload: the ring would lose the one it has, and play and train no more", file).
			WithHint("add to the file: workload: FILE; to take it away all the same: --without-workload")
	}
	if err := client(c).Post(ctx, "/api/v1/settings", settings, &out); err != nil {
		return err
	}
	return show(c, out, func(w io.Writer, a applied) {
		fmt.Fprintf(w, "ring settings are now version %d\nchanged: %s\n", a.Version, cmp.Or(strings.Join(changed(old.Settings, a.Settings), ", "), "-"))
	})
}

// changed names the settings in which two versions differ.
func changed(old, now ring.Settings) []string {
	was, is := flat(old), flat(now)
	var out []string
	for key := range is {
		if _, ok := was[key]; !ok {
			was[key] = nil
		}
	}
	for _, key := range slices.Sorted(maps.Keys(was)) {
		if !reflect.DeepEqual(was[key], is[key]) {
			out = append(out, key)
		}
	}
	return out
}

// flat is the settings by the names that a ring settings file has for them, each daemon's section by itself.
func flat(s ring.Settings) map[string]any {
	out := map[string]any{}
	b, err := json.Marshal(s)
	if err != nil || json.Unmarshal(b, &out) != nil {
		return map[string]any{}
	}
	sections, _ := out["daemons"].(map[string]any)
	delete(out, "daemons")
	for name, section := range sections {
		out["daemons."+name] = section
	}
	return out
}
