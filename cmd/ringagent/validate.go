package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/daemons"
)

type validation struct {
	OK    bool            `json:"ok"`
	Files []validatedFile `json:"files"`
}

type validatedFile struct {
	File  string `json:"file"`
	Kind  string `json:"kind"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

func validateCommand() *cli.Command {
	return &cli.Command{
		Name: "validate", Usage: "check config, ring settings and workload files without an agent", ArgsUsage: "[FILE…]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", EnvVars: env("config"), Usage: "without any FILE: the machine's config `FILE`, instead of the one that agent would find"},
		},
		Action: func(c *cli.Context) error {
			files := c.Args().Slice()
			if len(files) == 0 {
				f := config.Find(c.String("data-dir"), c.String("config"))
				if f == "" {
					return usage("validate: no file named, and no config file found").(*api.Error).WithHint("name one or more files to check")
				}
				files = []string{f}
			}
			out := validation{OK: true, Files: []validatedFile{}}
			for _, f := range files {
				v := validatedFile{File: f, OK: true}
				b, err := config.ReadFile(f)
				if err == nil {
					v.Kind, err = config.ValidateAny(b, f, daemons.CheckSection)
				}
				if err != nil {
					v.OK, v.Error, out.OK = false, err.Error(), false
				}
				out.Files = append(out.Files, v)
			}
			err := show(c, out, func(w io.Writer, v validation) {
				for _, f := range v.Files {
					if f.OK {
						fmt.Fprintf(w, "%s: ok (%s)\n", f.File, f.Kind)
						continue
					}
					text := strings.TrimRight(f.Error, "\n")
					if !strings.HasPrefix(text, f.File) { // most faults begin with the file, and the line in it
						text = f.File + ": " + text
					}
					fmt.Fprintln(w, text)
				}
			})
			if err == nil && !out.OK {
				err = api.Errorf(api.CodeInvalid, "not every file is valid")
			}
			return err
		},
	}
}
