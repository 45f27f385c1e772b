package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
)

func agentCommand() *cli.Command {
	return &cli.Command{
		Name:  "agent",
		Usage: "run the agent; it finds its ring again by itself",
		Flags: machineFlags(append([]cli.Flag{joinFlag()}, placeFlags()...)...),
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			conf, _, err := machine(c)
			if err != nil {
				return err
			}
			if agent.Granted(conf.DataDir) { // a join was interrupted after it had been granted its place
				if err := agent.Enrol(c.Context, agent.Enrolment{Config: conf, Seeds: conf.Join}); err != nil {
					return err
				}
				if conf, _, err = machine(c); err != nil {
					return err
				}
			}
			return runAgent(c, conf)
		},
	}
}

// runAgent runs an agent in the foreground until a signal ends it.
func runAgent(c *cli.Context, conf config.Config) error {
	agent.TuneMemory()
	log, level, err := agent.NewLogger(c.App.ErrWriter, conf.Log)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "%v", err)
	}
	a, err := agent.New(conf, agent.Options{Log: log, Level: level, Reload: func() (config.Config, error) {
		next, _, err := machine(c)
		warnOfDefaults(c, log)
		return next, err
	}})
	if err != nil {
		return err
	}
	warnOfDefaults(c, log)
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go func() {
		for {
			select {
			case <-hup:
				if err := a.Reload(); err != nil {
					log.Error().Err(err).Msg("reload refused; the old config stays in force")
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return a.Run(ctx)
}

// warnOfDefaults tells of a config that is gone: init and join have written one.
func warnOfDefaults(c *cli.Context, log zerolog.Logger) {
	if dir := c.String("data-dir"); config.Find(dir, c.String("config")) == "" {
		log.Warn().Str("data_dir", dir).Msg("there is no config.yaml: what neither a flag nor a variable gives has its default")
	}
}
