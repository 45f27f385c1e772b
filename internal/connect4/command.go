package connect4

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
)

const exitUsage = 2

// Command returns the tree "connect4 selfplay|export|train|evaluate|move". Progress and results go to the app's writer;
// usage errors carry exit code 2, others none.
func Command() *cli.Command {
	c := &cli.Command{
		Name:  Board,
		Usage: "the built-in workload: Connect Four",
		Subcommands: []*cli.Command{
			selfplayCommand(), exportCommand(), trainCommand(), evaluateCommand(), moveCommand(),
		},
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return cli.Exit("connect4: want one of selfplay, export, train, evaluate, move", exitUsage)
			}
			return cli.Exit(fmt.Sprintf("connect4: unknown command %q", c.Args().First()), exitUsage)
		},
	}
	for _, s := range append(c.Subcommands, c) {
		s.HideHelpCommand = true
		s.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return cli.Exit(err.Error(), exitUsage) }
	}
	return c
}

// stage wraps the body of a command: no stray arguments, usage errors with their exit code.
func stage(run func(c *cli.Context) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		err := error(nil)
		if c.NArg() > 0 {
			err = usagef("unexpected argument %q", c.Args().First())
		}
		if err == nil && c.IsSet("simulations") {
			if n := c.Int("simulations"); n < 0 || n > MaxSimulations {
				err = usagef("--simulations %d, want 0 to %d", n, MaxSimulations)
			}
		}
		if err == nil {
			err = run(c)
		}
		if errors.As(err, new(*usageError)) {
			return cli.Exit(fmt.Sprintf("%s: %v", c.Command.Name, err), exitUsage)
		}
		return err
	}
}

// given says whether a flag that must be there is; the library's own check would print a page and lose the exit code.
func given(c *cli.Context, names ...string) error {
	for _, n := range names {
		if !c.IsSet(n) {
			return usagef("--%s is missing", n)
		}
	}
	return nil
}

func seedFlag() cli.Flag {
	return &cli.Uint64Flag{Name: "seed", Value: 1, Usage: "what all random numbers are drawn from"}
}

func simulationsFlag() cli.Flag {
	return &cli.IntFlag{Name: "simulations", Value: DefaultSimulations, Usage: "simulations per move, 0 = the network alone"}
}

func selfplayCommand() *cli.Command {
	return &cli.Command{
		Name: "selfplay", Usage: "play games of a network against itself",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "games", Value: 40, Usage: "how many games"},
			&cli.StringFlag{Name: "model", Usage: "model `FILE`; none = the untrained network"},
			&cli.StringFlag{Name: "out", Usage: "SQLite `FILE` to add the games to"},
			&cli.StringFlag{Name: "source", Usage: "`WHO` plays, noted in each game"},
			seedFlag(), simulationsFlag(),
		},
		Action: stage(func(c *cli.Context) error {
			if err := given(c, "out"); err != nil {
				return err
			}
			_, err := Selfplay(c.Context, SelfplayOptions{
				Games: c.Int("games"), Model: c.String("model"), Out: c.String("out"), Seed: c.Uint64("seed"),
				Simulations: c.Int("simulations"), Source: c.String("source"), Progress: c.App.Writer,
			})
			return err
		}),
	}
}

func exportCommand() *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "turn finished games into a training set (NPZ)",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "db", Usage: "game database or pack `FILE` (repeatable)"},
			&cli.StringFlag{Name: "games", Usage: "the same, or a `DIR` of them"},
			&cli.StringFlag{Name: "out", Usage: "NPZ `FILE`"},
			&cli.IntFlag{Name: "max-games", Usage: "only the newest `N` games, 0 = all"},
			&cli.BoolFlag{Name: "no-mirror", Usage: "leave out the reflections"},
		},
		Action: stage(func(c *cli.Context) error {
			inputs := c.StringSlice("db")
			if games := c.String("games"); games != "" {
				inputs = append(inputs, games)
			}
			if err := given(c, "out"); err != nil {
				return err
			}
			if len(inputs) == 0 || c.Int("max-games") < 0 {
				return usagef("want --db or --games, and --max-games not below 0")
			}
			r, err := Export(c.Context, ExportOptions{
				Inputs: inputs, Out: c.String("out"), MaxGames: c.Int("max-games"), Mirror: !c.Bool("no-mirror"), Progress: c.App.Writer,
			})
			if err == nil {
				_, err = fmt.Fprintf(c.App.Writer, "EXPORT_SUMMARY: samples=%d games=%d skipped=%d\n", r.Samples, r.Games, r.Skipped)
			}
			return err
		}),
	}
}

func trainCommand() *cli.Command {
	return &cli.Command{
		Name: "train", Usage: "fit a network to a training set",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "dataset", Usage: "NPZ `FILE`"},
			&cli.StringFlag{Name: "model", Aliases: []string{"parent"}, Usage: "model `FILE` to go on from; none = start afresh"},
			&cli.StringFlag{Name: "out", Usage: "model `FILE`"},
			&cli.IntFlag{Name: "epochs", Value: DefaultEpochs, Usage: "passes over the set"},
			seedFlag(),
		},
		Action: stage(func(c *cli.Context) error {
			if err := given(c, "dataset", "out"); err != nil {
				return err
			}
			if c.Int("epochs") < 1 { // 0 is the default to Train
				return usagef("--epochs %d: want 1 to 10000", c.Int("epochs"))
			}
			_, err := Train(c.Context, TrainOptions{
				Dataset: c.String("dataset"), Parent: c.String("model"), Out: c.String("out"), Epochs: c.Int("epochs"),
				Seed: c.Uint64("seed"), Progress: c.App.Writer,
			})
			return err
		}),
	}
}

func evaluateCommand() *cli.Command {
	return &cli.Command{
		Name: "evaluate", Usage: "measure a network in paired games",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "model", Usage: "the candidate's model `FILE`"},
			&cli.BoolFlag{Name: "untrained", Usage: "measure the untrained network instead"},
			&cli.StringFlag{Name: "opponents", Value: strings.Join([]string{BaselineRandom, BaselineHeuristic, BaselineMinimax}, ","), Usage: "baselines, or untrained (the same search without training), separated by commas"},
			&cli.StringFlag{Name: "champion", Usage: "model `FILE` of the champion"},
			&cli.StringFlag{Name: "out", Usage: "`FILE` for the matches, JSON lines"},
			&cli.IntFlag{Name: "min-games", Value: DefaultMinGames, Usage: "least games an opponent"},
			&cli.IntFlag{Name: "max-games", Value: DefaultMaxGames, Usage: "most games a baseline"},
			&cli.IntFlag{Name: "champion-games", Value: DefaultChampionGames, Usage: "most games against the champion"},
			seedFlag(), simulationsFlag(),
		},
		Action: stage(func(c *cli.Context) error {
			if err := given(c, "out"); err != nil {
				return err
			}
			if err := modelOrUntrained(c); err != nil {
				return err
			}
			r, err := Evaluate(c.Context, EvaluateOptions{
				Model: c.String("model"), Opponents: names(c.String("opponents")), Champion: c.String("champion"), Out: c.String("out"),
				Seed: c.Uint64("seed"), Simulations: c.Int("simulations"), MinGames: c.Int("min-games"), MaxGames: c.Int("max-games"),
				ChampionGames: c.Int("champion-games"), Progress: c.App.Writer,
			})
			if err == nil {
				_, err = fmt.Fprintf(c.App.Writer, "EVALUATION_SUMMARY: games=%d opponents=%d elo=%.0f model=%s\n", r.Games, len(r.Scores), r.Elo, r.Digest)
			}
			return err
		}),
	}
}

func names(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func modelOrUntrained(c *cli.Context) error {
	if c.Bool("untrained") == (c.String("model") != "") {
		return usagef("want either --model or --untrained")
	}
	return nil
}

func moveCommand() *cli.Command {
	return &cli.Command{
		Name: "move", Usage: "print the network's move in a position",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "model", Usage: "model `FILE`"},
			&cli.BoolFlag{Name: "untrained", Usage: "ask the untrained network instead"},
			&cli.StringFlag{Name: "moves", Usage: "columns played so far, `DIGITS` 1 to 7"},
			simulationsFlag(),
		},
		Action: stage(func(c *cli.Context) error {
			if err := modelOrUntrained(c); err != nil {
				return err
			}
			m, err := ChooseMove(MoveOptions{Model: c.String("model"), Moves: c.String("moves"), Simulations: c.Int("simulations")})
			if err != nil {
				return notFound(err)
			}
			return json.NewEncoder(c.App.Writer).Encode(m)
		}),
	}
}

// notFound gives a missing model file the exit code of what is not there.
func notFound(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return cli.Exit(err.Error(), 4)
	}
	return err
}
