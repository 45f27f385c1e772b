package main

import (
	"fmt"
	"io"
	"math"
	"net/url"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
)

func configFlag() cli.Flag { return &cli.StringFlag{Name: "config", Usage: "only `CONFIG`"} }

func configQuery(c *cli.Context) url.Values {
	q := url.Values{}
	if v := c.String("config"); v != "" {
		q.Set("config", v)
	}
	return q
}

func gamesCommand() *cli.Command {
	return &cli.Command{
		Name: "games", Usage: "finished games per config, in the whole ring",
		Flags: []cli.Flag{configFlag()},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			ctx, cancel := ask(c)
			defer cancel()
			var out api.Games
			if err := client(c).Get(ctx, "/api/v1/games", configQuery(c), &out); err != nil {
				return err
			}
			return show(c, out, func(w io.Writer, g api.Games) {
				t := newTable(w, "CONFIG", "GAMES", "UNSYNCED", "PACKS", "LAST")
				for _, r := range g.Configs {
					last, unsynced := "", "unknown"
					if r.LastGame != nil {
						last = age(*r.LastGame)
					}
					if r.Unsynced != nil {
						unsynced = fmt.Sprint(*r.Unsynced)
					}
					t.row(r.Config, r.Games, unsynced, r.Packs, last)
				}
				t.flush()
				printAsOf(w, g.AsOf)
			})
		},
	}
}

func modelsCommand() *cli.Command {
	return &cli.Command{
		Name: "models", Usage: "the champions and their past",
		Flags: []cli.Flag{configFlag(), &cli.BoolFlag{Name: "history", Usage: "every version, oldest first"}},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			q := configQuery(c)
			if c.Bool("history") {
				q.Set("history", "true")
			}
			ctx, cancel := ask(c)
			defer cancel()
			var out api.Models
			if err := client(c).Get(ctx, "/api/v1/models", q, &out); err != nil {
				return err
			}
			return show(c, out, func(w io.Writer, ms api.Models) {
				t := newTable(w, "CONFIG", "VERSION", "SHA256", "ELO", "PROMOTED", "ON NODES")
				for _, m := range ms.Models {
					elo := "unknown"
					if m.Elo != nil {
						elo = fmt.Sprintf("%.0f", *m.Elo)
					}
					t.row(m.Config, m.Version, short(string(m.SHA256)), elo, age(m.PromotedAt), strings.Join(m.OnNodes, ","))
				}
				t.flush()
				printAsOf(w, ms.AsOf)
			})
		},
	}
}

func eloCommand() *cli.Command {
	return &cli.Command{
		Name: "elo", Usage: "ratings, folded from the stored matches",
		Flags: []cli.Flag{configFlag(), &cli.BoolFlag{Name: "plot", Usage: "draw the champions' ratings over their versions"}},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			ctx, cancel := ask(c)
			defer cancel()
			if c.Bool("plot") && !c.Bool("json") {
				q := configQuery(c)
				q.Set("history", "true")
				var past api.Models
				if err := client(c).Get(ctx, "/api/v1/models", q, &past); err != nil {
					return err
				}
				plotElo(c.App.Writer, past.Models)
				printAsOf(c.App.Writer, past.AsOf)
				return nil
			}
			var out api.Ratings
			if err := client(c).Get(ctx, "/api/v1/ratings", configQuery(c), &out); err != nil {
				return err
			}
			err := show(c, out, func(w io.Writer, rs api.Ratings) {
				t := newTable(w, "CONFIG", "MODEL", "ELO", "LOW", "HIGH", "GAMES", "WINS", "DRAWS", "LOSSES")
				for _, r := range rs.Ratings {
					if r.Elo == nil {
						t.row(r.Config, short(r.Model), "unknown", "", "", "", "", "", "")
						continue
					}
					t.row(r.Config, short(r.Model), fmt.Sprintf("%.0f", *r.Elo), fmt.Sprintf("%.0f", *r.Low), fmt.Sprintf("%.0f", *r.High), *r.Games, *r.Wins, *r.Draws, *r.Losses)
				}
				t.flush()
				printAsOf(w, rs.AsOf)
			})
			if err != nil || len(out.Missing) == 0 {
				return err
			}
			m := out.Missing[0]
			return api.Errorf(api.CodePartial, "%d match files cannot be had, so ratings of their configs are unknown; %s of %s: %s", len(out.Missing), short(string(m.SHA256)), m.Config, m.Reason).
				WithHint("bring their holders back: ringagent data where " + short(string(m.SHA256)))
		},
	}
}

// plotElo draws one bar a version, scaled between the lowest and the highest rating shown.
func plotElo(w io.Writer, models []api.Model) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, m := range models {
		if m.Elo != nil {
			low, high = math.Min(low, *m.Elo), math.Max(high, *m.Elo)
		}
	}
	switch {
	case len(models) == 0:
		fmt.Fprintln(w, "nothing was promoted yet; the ratings of all models: ringagent elo")
		return
	case math.IsInf(low, 1):
		fmt.Fprintln(w, "no champion's rating is known; the ratings of all models: ringagent elo")
		return
	}
	const width = 50
	for _, m := range models {
		if m.Elo == nil {
			fmt.Fprintf(w, "%-16s v%-4d unknown\n", m.Config, m.Version)
			continue
		}
		n := width
		if high > low {
			n = 1 + int((*m.Elo-low)/(high-low)*(width-1))
		}
		fmt.Fprintf(w, "%-16s v%-4d %s %.0f\n", m.Config, m.Version, strings.Repeat("█", n), *m.Elo)
	}
}
