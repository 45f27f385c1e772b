package worker

import (
	"context"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/workload"
)

// Config is what a Worker is made of. Runner, Queue, Artifacts, Games and Workload are required.
type Config struct {
	Node id.Node
	Boot id.Boot
	// Self is the absolute path of our own binary, the value of {self}.
	Self string
	// Slots is what jobs may take; see Measure, Configured and Resize.
	Slots workload.Slots
	// MinFreeMiB has to stay free on the disk of the jobs; below it nothing is claimed and running jobs are ended.
	MinFreeMiB int64

	Runner     *proc.Runner
	Queue      Queue
	Artifacts  Artifacts
	Games      Games
	Validators map[string]proc.Validator
	// Belongs says what speaks against a good output being the answer to this claim; nil means nothing ever does.
	Belongs func(ctx context.Context, c Claim, out proc.Artifact) error
	// CardsUnknown says that the machine may have graphics cards which are not counted yet: jobs are to see none of them. Nil means
	// that it never has.
	CardsUnknown func() bool
	// Workload is asked before each claim; nil means that there is none yet.
	Workload func() *workload.Workload
	// Configs narrows the workload's configs to those that the ring trains; nil means all.
	Configs func() []id.Config
	// Holds lists useful artifacts that are here already; nil means none.
	Holds func() []id.Digest
	Log   zerolog.Logger
	Pace  Pace
}

// Pace holds the worker's periods. Zero values mean the defaults.
type Pace struct {
	// Poll is how often work is asked for when there was none (1 s); it grows to PollMost (5 s) while nothing changes.
	Poll, PollMost time.Duration
	// Retry is the first pause before an unanswered call is repeated (500 ms); it grows to RetryMost (15 s).
	Retry, RetryMost time.Duration
	// Call bounds one call to the queue (10 s).
	Call time.Duration
	// Avoid is the first pause after this node could not run a type (5 s); it grows to AvoidMost (5 min).
	Avoid, AvoidMost time.Duration
	// Template is how soon exit code 2 means that the command line is wrong (5 s).
	Template time.Duration
	// Tries is how often an input is fetched and an output is stored before the run is given up (5).
	Tries int
	// KeptJobs is how many ended jobs stay for inspection (16), besides those whose games are not yet safe. KeptBytes is how
	// much their outputs may take (4 GiB), besides those of the newest. On a full disk all outputs go.
	KeptJobs  int
	KeptBytes int64
}

func (p Pace) withDefaults() Pace {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&p.Poll, time.Second)
	set(&p.PollMost, 5*time.Second)
	set(&p.Retry, 500*time.Millisecond)
	set(&p.RetryMost, 15*time.Second)
	set(&p.Call, 10*time.Second)
	set(&p.Avoid, 5*time.Second)
	set(&p.AvoidMost, 5*time.Minute)
	set(&p.Template, 5*time.Second)
	if p.Tries <= 0 {
		p.Tries = 5
	}
	if p.KeptJobs <= 0 {
		p.KeptJobs = 16
	}
	if p.KeptBytes <= 0 {
		p.KeptBytes = 4 << 30
	}
	return p
}
