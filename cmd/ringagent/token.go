package main

import (
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
)

func tokenCommand() *cli.Command {
	return &cli.Command{
		Name:  "token",
		Usage: "join tokens: counted, expiring, bound to a class",
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "make a token; this is the only time it is shown",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "class", Value: "edge", Usage: "`CLASS` core or edge"},
					&cli.DurationFlag{Name: "ttl", Value: time.Hour, Usage: "how long it may be used"},
					&cli.IntFlag{Name: "uses", Value: 1, Usage: "how many machines may use it"},
				},
				Action: func(c *cli.Context) error {
					if err := noArgs(c); err != nil {
						return err
					}
					class, err := id.ParseClass(c.String("class"))
					if err != nil {
						return usage("--class: %v", err)
					}
					if d := c.Duration("ttl"); d < time.Second || d > 30*24*time.Hour {
						return usage("--ttl %s: want 1s to 720h", d)
					}
					if n := c.Int("uses"); n < 1 || n > 1000 {
						return usage("--uses %d: want 1 to 1000", n)
					}
					ctx, cancel := ask(c)
					defer cancel()
					var out api.TokenCreated
					in := api.CreateToken{Class: class, TTLSeconds: c.Duration("ttl").Seconds(), Uses: c.Int("uses")}
					if err := client(c).Post(ctx, "/api/v1/tokens", in, &out); err != nil {
						return err
					}
					return show(c, out, func(w io.Writer, t api.TokenCreated) { fmt.Fprintln(w, t.Token) })
				},
			},
			{
				Name: "list", Usage: "list tokens, without their secrets",
				Action: func(c *cli.Context) error {
					if err := noArgs(c); err != nil {
						return err
					}
					ctx, cancel := ask(c)
					defer cancel()
					var out api.Tokens
					if err := client(c).Get(ctx, "/api/v1/tokens", nil, &out); err != nil {
						return err
					}
					return show(c, out, func(w io.Writer, ts api.Tokens) {
						t := newTable(w, "ID", "CLASS", "USED", "OF", "EXPIRES", "REVOKED")
						for _, k := range ts.Tokens {
							t.row(k.ID, k.Class, k.Used, k.Uses, k.Expires.Format(time.RFC3339), k.Revoked)
						}
						t.flush()
						printAsOf(w, ts.AsOf)
					})
				},
			},
			{
				Name: "revoke", Usage: "end a token", ArgsUsage: "ID",
				Action: func(c *cli.Context) error {
					id, err := idArg(c, "token ID")
					if err != nil {
						return err
					}
					return post(c, "/api/v1/tokens/"+url.PathEscape(id)+"/revoke", struct{}{}, "revoked")
				},
			},
		},
	}
}
