package kit

import (
	"context"
	"fmt"
	"time"
)

// Prober is what a built-in part may offer so that its facade marks progress only while it works: Alive returns nil when
// the part does its duty.
type Prober interface {
	Alive(ctx context.Context) error
}

// Facade makes a daemon of a part that is built into the agent, so that it has a row in status, dependencies and restarts
// like every other. A part that is no Prober counts as working while its Run has not returned.
func Facade(part string) func(Env) (Daemon, error) {
	return func(env Env) (Daemon, error) {
		if env.Part == nil {
			return nil, fmt.Errorf("part %s: this agent has none", part)
		}
		d, err := env.Part(part)
		if err != nil {
			return nil, fmt.Errorf("open part %s: %w", part, err)
		}
		if env.Every <= 0 {
			env.Every = 10 * time.Second
		}
		probe := NewLoop(env, Loop{Step: func(ctx context.Context) error {
			p, ok := d.(Prober)
			if !ok {
				return nil
			}
			ctx, cancel := context.WithTimeout(ctx, env.Every)
			defer cancel()
			if err := p.Alive(ctx); err != nil {
				return fmt.Errorf("probe %s: %w", part, err)
			}
			return nil
		}})
		run := Run(func(ctx context.Context) error {
			if err := d.Run(ctx); err != nil {
				return fmt.Errorf("run part %s: %w", part, err)
			}
			if ctx.Err() == nil {
				return fmt.Errorf("part %s ended by itself", part)
			}
			return nil
		})
		return Both(run, probe), nil
	}
}
