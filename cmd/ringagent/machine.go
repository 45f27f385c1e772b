package main

import (
	"cmp"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/internal/id"
)

// machineFlags are what init, agent and join share: the machine's config, value by value.
func machineFlags(extra ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "config", EnvVars: env("config"), Usage: "the machine's config `FILE` (default: <data-dir>/config.yaml, then /etc/ringagent/config.yaml)"},
		&cli.StringFlag{Name: "node-name", EnvVars: env("node-name"), Usage: "this machine's `NAME` in the ring (default: its host name)"},
		&cli.StringFlag{Name: "listen", EnvVars: env("listen"), Usage: "the one `ADDRESS` to listen on, [host]:port (default: :8770)"},
		&cli.StringFlag{Name: "advertise", EnvVars: env("advertise"), Usage: "the `ADDRESS` under which others reach this machine, host:port"},
		&cli.StringFlag{Name: "failure-domain", EnvVars: env("failure-domain"), Usage: "what fails together with this machine, as one `WORD`"},
		&cli.StringFlag{Name: "log-level", EnvVars: env("log-level"), Usage: "`LEVEL` debug, info, warn or error"},
		&cli.StringFlag{Name: "log-format", EnvVars: env("log-format"), Usage: "`FORM` json or console"},
	}, extra...)
}

// placeFlags are what agent and join share beyond that. config show knows them, too, or it would not tell what they set.
func placeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "profile", EnvVars: env("profile"), Usage: "which daemons run here: `PROFILE` core, edge, gpu, full or minimal"},
		&cli.StringFlag{Name: "gossip", EnvVars: env("gossip"), Usage: "timing of gossip: `PROFILE` lan or wan"},
	}
}

func joinFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "join", EnvVars: env("join"), Usage: "a `SEED` to try beside the known peers, host[:8770] (repeatable)"}
}

func classFlag() cli.Flag {
	return &cli.StringFlag{Name: "class", EnvVars: env("class"), Usage: "`CLASS` core or edge; must be the token's (default: the token's)"}
}

// machine is the effective config: flag over environment over file over default.
func machine(c *cli.Context) (config.Config, config.Origins, error) {
	dir := c.String("data-dir")
	file := config.Find(dir, c.String("config"))
	conf, origins, err := config.Load(dir, file)
	if err != nil {
		return conf, nil, api.Errorf(api.CodeInvalid, "%v", err)
	}
	if c.IsSet("data-dir") || conf.DataDir == "" {
		conf.DataDir = dir
		origins["data_dir"] = from("data-dir")
	}
	set := func(flag, key string, into *string) {
		if c.IsSet(flag) {
			*into, origins[key] = c.String(flag), from(flag)
		}
	}
	set("node-name", "node_name", &conf.NodeName)
	set("listen", "listen", &conf.Listen)
	set("advertise", "advertise", &conf.Advertise)
	set("failure-domain", "failure_domain", &conf.FailureDomain)
	set("log-level", "log.level", &conf.Log.Level)
	set("log-format", "log.format", &conf.Log.Format)
	set("profile", "profile", &conf.Profile)
	set("gossip", "gossip", &conf.Gossip)
	if c.IsSet("class") {
		conf.Class, origins["class"] = id.Class(c.String("class")), from("class")
	}
	if c.IsSet("join") {
		conf.Join, origins["join"] = c.StringSlice("join"), from("join")
	}
	if err := conf.Validate(); err != nil {
		return conf, nil, api.Errorf(api.CodeInvalid, "%s: %v", blame(err, origins, file), err)
	}
	return conf, origins, nil
}

// blame is where the value came from that err begins with: the flag, the variable or the file to be mended.
func blame(err error, origins config.Origins, file string) string {
	key, _, _ := strings.Cut(strings.NewReplacer(": ", " ", `"`, " ").Replace(err.Error()), " ")
	switch kind, name, _ := strings.Cut(origins[key], " "); kind {
	case "flag", "environment":
		return name
	}
	return cmp.Or(file, "config")
}

// from tells a flag from its environment variable.
func from(flag string) string {
	name := env(flag)[0]
	for _, a := range os.Args[1:] {
		if a == "--"+flag || strings.HasPrefix(a, "--"+flag+"=") || a == "-"+flag {
			return "flag --" + flag
		}
	}
	if _, ok := os.LookupEnv(name); ok {
		return "environment " + name
	}
	return fmt.Sprintf("flag --%s", flag)
}
