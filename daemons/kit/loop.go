package kit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/eventlog/event"
)

// Loop is the clockwork under every shape: it calls Step at once, then every period (±10 %) and whenever one of the Wake
// events is placed in the log. Wake-ups that come close together become one step; steps never overlap; a panic is an
// error; an error delays this loop alone, twice as long each time. Events are hints: Step reads state and decides from it,
// so a lost event costs at most one period.
type Loop struct {
	Step  func(ctx context.Context) error
	Wake  []event.Type
	Poke  <-chan struct{} // another source of wake-ups, such as a transfer that ended
	Quiet time.Duration   // a wake-up waits for this long without another one; default 200 ms
	Most  time.Duration   // but never longer than this; default 2 s
	// Rest times the time that a step took must pass before a wake-up makes the next one, but never more than the period, nor than ten seconds: a
	// step that looks through all of a ring that has grown for weeks is not to be all that its node does. 0: no rest.
	Rest int
	// First and Slowest bound the delay after an error; default 1 s and 1 min, but never less often than the period when
	// that is longer.
	First, Slowest time.Duration
}

// NewLoop makes a daemon of l with the period, clock and books of env.
func NewLoop(env Env, l Loop) Daemon {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&l.Quiet, 200*time.Millisecond)
	def(&l.Most, 2*time.Second)
	def(&l.First, time.Second)
	def(&l.Slowest, max(time.Minute, l.First))
	return &loop{Loop: l, every: env.Every, events: env.Events, log: env.Log, progress: env.Progress, trouble: env.Trouble}
}

type loop struct {
	Loop
	every    time.Duration
	events   Events
	log      zerolog.Logger
	progress func()
	trouble  func(error)
}

// Run implements Daemon. It returns an error only when the assignment is over (ErrStaleEpoch); everything else is retried
// here, and a loop that never has a good step is the watchdog's business.
func (l *loop) Run(ctx context.Context) error {
	var wake <-chan event.Record
	if len(l.Wake) > 0 {
		wake = l.events.Wake(ctx, l.Wake...)
	}
	fails := 0
	for {
		began := time.Now()
		err := Guard(ctx, l.Step)
		rested := time.Now().Add(l.rest(time.Since(began)))
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case err == nil:
			fails = 0
			l.mark(nil)
		case errors.Is(err, ErrStaleEpoch):
			return fmt.Errorf("run step: %w", err)
		case errors.Is(err, ErrNoCoordinator):
			// Waiting for a quorum is not being stuck: without this mark the watchdog would restart every daemon of a
			// minority until it is FAILED.
			fails++
			l.mark(err)
		default:
			fails++
			l.log.Warn().Err(err).Int("failures", fails).Msg("step failed")
			if l.trouble != nil {
				l.trouble(err)
			}
		}
		if fails > 0 {
			if !sleep(ctx, l.backoff(fails)) {
				return nil
			}
			continue
		}
		woken, ok := l.wait(ctx, &wake)
		if !ok || woken && !sleep(ctx, time.Until(rested)) {
			return nil
		}
	}
}

// thoughtful is the Rest of the shapes whose step is to read the state and to decide.
const thoughtful = 4

// longestRest is enough for what steps compute; they also wait for commits, which on a slow link is most of their time.
const longestRest = 10 * time.Second

func (l *loop) rest(took time.Duration) time.Duration {
	rest := time.Duration(l.Rest) * took
	if l.every > 0 {
		rest = min(rest, l.every)
	}
	return min(rest, longestRest)
}

func (l *loop) mark(trouble error) {
	if l.progress != nil {
		l.progress()
	}
	if l.trouble != nil {
		l.trouble(trouble)
	}
}

func (l *loop) backoff(fails int) time.Duration {
	d := l.First << min(fails-1, 16)
	return jitter(min(d, l.Slowest))
}

// wait returns at the next period's end or, woken, after a coalesced wake-up; ok is false when ctx has ended.
func (l *loop) wait(ctx context.Context, wake *<-chan event.Record) (woken, ok bool) {
	var tick <-chan time.Time
	if l.every > 0 {
		t := time.NewTimer(jitter(l.every))
		defer t.Stop()
		tick = t.C
	}
	select {
	case <-ctx.Done():
		return false, false
	case <-tick:
		return false, true
	case <-l.Poke:
	case _, open := <-*wake:
		if !open {
			*wake = nil
			return false, sleep(ctx, max(l.every, l.First))
		}
	}
	most := time.NewTimer(l.Most)
	defer most.Stop()
	quiet := time.NewTimer(l.Quiet)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, false
		case <-most.C:
			return true, true
		case <-quiet.C:
			return true, true
		case <-l.Poke:
			quiet.Reset(l.Quiet)
		case _, open := <-*wake:
			if !open {
				*wake = nil
				return true, ctx.Err() == nil
			}
			quiet.Reset(l.Quiet)
		}
	}
}

// Guard calls f and turns a panic into an error that carries the stack.
func Guard(ctx context.Context, f func(context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return f(ctx)
}

func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}
