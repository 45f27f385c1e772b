package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
)

func dataCommand() *cli.Command {
	list := func(name, does, path string) *cli.Command {
		return &cli.Command{
			Name: name, Usage: does,
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "kind", Usage: "only `KIND` games, dataset, model, matches, backup or file"},
				&cli.StringFlag{Name: "config", Usage: "only `CONFIG`"},
			},
			Action: func(c *cli.Context) error {
				if err := noArgs(c); err != nil {
					return err
				}
				return listArtifacts(c, path, url.Values{})
			},
		}
	}
	return &cli.Command{
		Name:  "data",
		Usage: "artifacts: what there is, where it is, and the bytes themselves",
		Subcommands: []*cli.Command{
			list("ls", "list artifacts", "/api/v1/artifacts"),
			list("under-replicated", "list artifacts with fewer receipts than wanted", "/api/v1/artifacts/under-replicated"),
			{
				Name: "where", Usage: "one artifact with its holders", ArgsUsage: "SHA256",
				Action: func(c *cli.Context) error {
					prefix, err := hashArg(c)
					if err != nil {
						return err
					}
					return listArtifacts(c, "/api/v1/artifacts/"+prefix, url.Values{})
				},
			},
			{
				Name: "verify", Usage: "recompute the hashes of this node's copies", ArgsUsage: "[SHA256]",
				Action: func(c *cli.Context) error {
					q := url.Values{}
					if c.NArg() > 1 {
						return usage("%s takes at most one SHA256, got %d", verb(c), c.NArg())
					}
					if c.NArg() > 0 {
						prefix, err := hashArg(c)
						if err != nil {
							return err
						}
						q.Set("sha256", prefix)
					}
					ctx, cancel := askLong(c, asLongAsItTakes)
					defer cancel()
					stop := progress(c, noMore)
					var out api.Verified
					err := client(c).Get(ctx, "/api/v1/artifacts/verify", q, &out)
					if stop(); err != nil {
						return err
					}
					err = show(c, out, func(w io.Writer, v api.Verified) {
						t := newTable(w, "SHA256", "OK", "ERROR")
						for _, f := range v.Files {
							t.row(f.SHA256, f.OK, f.Error)
						}
						t.flush()
					})
					if err == nil && !out.OK {
						err = api.Errorf(api.CodeFailed, "some copies of this node are not what their names say; they are in quarantine")
					}
					return err
				},
			},
			{
				Name: "get", Usage: "write an artifact's bytes to a file", ArgsUsage: "SHA256",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "out", Usage: "the `FILE` to write, - for standard output", Required: true},
				},
				Action: func(c *cli.Context) error {
					if err := deliverable(c); err != nil { // before a large artifact has come in vain
						return err
					}
					return getArtifact(c)
				},
			},
			{
				Name: "put", Usage: "add a file to the ring's artifacts", ArgsUsage: "FILE",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "kind", Usage: "`KIND` games, dataset, model, matches, backup or file", Required: true},
					&cli.StringFlag{Name: "config", Usage: "the `CONFIG` it belongs to"},
				},
				Action: putArtifact,
			},
		},
	}
}

func hashArg(c *cli.Context) (string, error) {
	s, err := oneArg(c, "SHA256")
	if err != nil {
		return "", err
	}
	s = strings.ToLower(s)
	if len(s) < 4 || len(s) > 64 || strings.Trim(s, "0123456789abcdef") != "" {
		return "", usage("sha256 %q: want at least 4 and at most 64 hex digits", s)
	}
	return s, nil
}

func listArtifacts(c *cli.Context, path string, q url.Values) error {
	for _, f := range []string{"kind", "config"} {
		if v := c.String(f); v != "" {
			q.Set(f, v)
		}
	}
	ctx, cancel := ask(c)
	defer cancel()
	var out api.Artifacts
	if err := client(c).Get(ctx, path, q, &out); err != nil {
		return err
	}
	if out.OnlyHere {
		fmt.Fprintln(c.App.ErrWriter, "no core node can tell: only the copies on this node are listed, and who else has them is not known")
	}
	return show(c, out, func(w io.Writer, as api.Artifacts) {
		t := newTable(w, "SHA256", "KIND", "CONFIG", "SIZE", "AGE", "ORIGIN", "HOLDERS", "NAMES")
		for _, a := range as.Artifacts {
			t.row(short(string(a.SHA256)), a.Kind, a.Config, size(a.Bytes), ageOf(a.Created), deref(a.Origin), strings.Join(a.Holders, ","), strings.Join(a.Names, ","))
		}
		t.flush()
		if !as.OnlyHere {
			printAsOf(w, as.AsOf)
		}
	})
}

// getArtifact writes an artifact's bytes to a file.
func getArtifact(c *cli.Context) error {
	prefix, err := hashArg(c)
	if err != nil {
		return err
	}
	d, err := digestOf(c, prefix)
	if err != nil {
		return err
	}
	ctx, cancel := askLong(c, asLongAsItTakes)
	defer cancel()
	in := &counted{}
	defer progress(c, in.soFar)()
	body, err := client(c).Stream(ctx, "/api/v1/blobs/"+string(d), nil)
	if err != nil {
		return err
	}
	defer body.Close()
	in.Reader = body
	return deliver(c, in, d)
}

// digestOf asks which artifact a prefix means. Of a whole hash nobody need know anything: the node may have the bytes.
func digestOf(c *cli.Context, prefix string) (id.Digest, error) {
	ctx, cancel := ask(c)
	defer cancel()
	var found api.Artifacts
	err := client(c).Get(ctx, "/api/v1/artifacts/"+prefix, nil, &found)
	if err != nil {
		d, bad := id.ParseDigest(prefix)
		if code := api.AsError(err).Code; bad == nil && (code == api.CodeNoQuorum || code == api.CodeTimeout) {
			return d, nil
		}
		return "", err
	}
	if len(found.Artifacts) != 1 {
		return "", api.Errorf(api.CodeNotFound, "%d artifacts begin with %s", len(found.Artifacts), prefix)
	}
	return found.Artifacts[0].SHA256, nil
}

func putArtifact(c *cli.Context) error {
	file, err := oneArg(c, "FILE")
	if err != nil {
		return err
	}
	q := url.Values{"kind": {c.String("kind")}}
	if s := c.String("config"); s != "" {
		config, err := id.ParseConfig(s)
		if err != nil {
			return usage("--config: %v", err)
		}
		q.Set("config", string(config))
	}
	f, err := openRegular(file)
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, cancel := askLong(c, asLongAsItTakes)
	defer cancel()
	in := &counted{Reader: f}
	stop := progress(c, in.soFar)
	var out api.Artifact
	err = client(c).Upload(ctx, "/api/v1/artifacts", q, in, &out)
	if stop(); err != nil {
		return refusedFile(file, err)
	}
	return show(c, out, func(w io.Writer, a api.Artifact) { fmt.Fprintln(w, a.SHA256) })
}

// openRegular opens a regular file, and does not wait for who might write into a pipe.
func openRegular(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, usage("%v", err)
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		_ = f.Close()
		return nil, usage("%s is not a regular file", file)
	}
	return f, nil
}

// refusedFile names the file as its owner knows it; the agent has seen bytes only.
func refusedFile(file string, err error) error {
	e := new(api.Error)
	if !errors.As(err, &e) || e.Code != api.CodeInvalid {
		return err
	}
	why, ok := strings.CutPrefix(e.Message, "file is ")
	if !ok {
		return err
	}
	return api.Errorf(e.Code, "%s is %s", file, why).WithHint("is --kind what the file is? as --kind file, anything is taken")
}
