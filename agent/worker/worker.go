package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/disk"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/workload"
)

// Worker runs work items on this node.
type Worker struct {
	cfg    Config
	pace   Pace
	log    zerolog.Logger
	ledger *Ledger
	avoid  *avoidance
	wake   chan struct{} // something changed that may let us claim
	beat   chan struct{} // a claim was added
	group  sync.WaitGroup
	sync   func(dir string) error          // syncDir, but for tests
	space  func(dir string) (int64, error) // disk.Free, but for tests

	mu       sync.Mutex
	running  bool
	adopted  bool // the jobs of a former process are in runs and kept
	draining bool
	held     bool // no more games are made; see Hold
	seen     *workload.Workload
	runs     map[string]*run  // claims without an answer, by job id
	kept     map[string]*kept // answered jobs whose directory is still here
	changed  chan struct{}    // closed and replaced when runs shrinks
}

// New checks cfg and returns a Worker that does nothing until Run.
func New(cfg Config) (*Worker, error) {
	if cfg.Runner == nil || cfg.Queue == nil || cfg.Artifacts == nil || cfg.Games == nil || cfg.Workload == nil || cfg.Self == "" {
		return nil, errors.New("make worker: runner, queue, artifacts, games, workload and self are required")
	}
	pace := cfg.Pace.withDefaults()
	return &Worker{
		cfg: cfg, pace: pace, log: cfg.Log, sync: syncDir, space: disk.Free,
		ledger: NewLedger(cfg.Slots), avoid: newAvoidance(pace.Avoid, pace.AvoidMost),
		wake: make(chan struct{}, 1), beat: make(chan struct{}, 1),
		runs: make(map[string]*run), kept: make(map[string]*kept), changed: make(chan struct{}),
	}, nil
}

// Run adopts the jobs of a former agent process, then claims and runs until ctx ends. When it returns, nothing of it is
// left but the commands themselves, which go on and are adopted by the next Run, also in another process. It may be
// called again after it has returned. The only errors are a disk that cannot be read at the start and a second Run.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.begin(); err != nil {
		return err
	}
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.running = false
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer w.group.Wait()
	defer cancel()
	if err := w.adopt(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to end before it began
		}
		return err
	}
	w.mu.Lock()
	w.adopted = true
	w.mu.Unlock()
	w.group.Go(func() { w.beatLoop(ctx) })
	w.claimLoop(ctx)
	return nil
}

func (w *Worker) begin() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running {
		return errors.New("run worker: it runs already")
	}
	w.running, w.adopted = true, false
	for job := range w.runs { // of a former Run; they are adopted again
		w.ledger.Release(job)
	}
	clear(w.runs)
	clear(w.kept)
	return nil
}

// Nudge says that there may be work now; the worker asks at once.
func (w *Worker) Nudge() { signal(w.wake) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Drain stops claiming; what is claimed goes on to its end. Resume takes it back.
func (w *Worker) Drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.draining = true
}

// Resume claims again after Drain.
func (w *Worker) Resume() {
	w.mu.Lock()
	w.draining = false
	w.mu.Unlock()
	w.Nudge()
}

// Leave drains, ends what runs (TERM, the stage's grace, KILL) and hands it back, and returns when every claim has been
// answered, or with the error of ctx when that takes longer; the answers are on disk then. Run has to be running.
func (w *Worker) Leave(ctx context.Context) error {
	w.mu.Lock()
	w.draining = true
	for _, r := range w.runs {
		r.end(ReasonLeaving, w.log)
	}
	w.mu.Unlock()
	return w.Idle(ctx)
}

// Idle waits until no claim is without its answer.
func (w *Worker) Idle(ctx context.Context) error {
	for {
		w.mu.Lock()
		left, changed := len(w.runs), w.changed
		w.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d claims: %w", left, context.Cause(ctx))
		case <-changed:
		}
	}
}

// claimLoop asks for work whenever something might fit.
func (w *Worker) claimLoop(ctx context.Context) {
	pause := w.pace.Poll
	for ctx.Err() == nil {
		granted, err := w.claimOne(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			w.log.Debug().Err(err).Msg("no answer from the queue")
			pause = min(pause*2, w.pace.PollMost)
		case granted:
			pause = w.pace.Poll
			continue
		default:
			pause = min(pause*3/2, w.pace.PollMost)
		}
		select {
		case <-ctx.Done():
		case <-w.wake:
			pause = w.pace.Poll
		case <-time.After(jittered(pause)):
		}
	}
}

// jittered spreads a period over ±20 %, so that a hundred nodes do not ask at once.
func jittered(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}

func (w *Worker) claimOne(ctx context.Context) (bool, error) {
	offer, ok := w.offer()
	if !ok {
		return false, nil
	}
	call, cancel := context.WithTimeout(ctx, w.pace.Call)
	defer cancel()
	claim, ok, err := w.cfg.Queue.Claim(call, offer)
	if err != nil || !ok {
		return false, err
	}
	w.accept(ctx, claim)
	return true, nil
}

// offer is what can be taken now; false means nothing.
func (w *Worker) offer() (Offer, bool) {
	wl := w.cfg.Workload()
	w.mu.Lock()
	draining, held, changed := w.draining, w.held, w.seen != wl
	w.seen = wl
	live := make(map[string]int, len(w.runs))
	claims := make([]string, 0, len(w.runs))
	for _, r := range w.runs {
		live[r.claim.Type]++
		claims = append(claims, r.claim.ClaimID)
	}
	w.mu.Unlock()
	if changed { // perhaps by somebody who has mended what failed here
		w.avoid.forget()
	}
	if wl == nil || draining {
		return Offer{}, false
	}
	spare, wanted := w.spareDisk(), int64(1)
	room := spare - w.unwritten()
	within := room + w.keptMiB()
	for _, stage := range wl.Stages { // those that can run here once there is room
		if need := stage.Needs.DiskMiB; need <= within && stage.Needs.Fits(w.ledger.Total()) {
			wanted = max(wanted, need)
		}
	}
	if room < wanted && w.shed(w.spare(), 0) {
		spare = w.spareDisk()
		room = spare - w.unwritten() // what is not claimed for want of room does not end, so that what takes it here would stay for ever
	}
	if spare <= 0 {
		return Offer{}, false
	}
	o := Offer{Node: w.cfg.Node, Boot: w.cfg.Boot, Free: w.ledger.Free(), Configs: w.configs(wl), Claims: claims}
	o.Free.DiskMiB = min(o.Free.DiskMiB, room)
	for _, name := range workload.StageNames() {
		stage, ok := wl.Stages[name]
		if !ok || !stage.Needs.Fits(o.Free) || held && makesGames(stage) {
			continue
		}
		if _, blocked := w.avoid.blocked(name); blocked || (live[name] > 0 && w.avoid.suspect(name)) {
			continue
		}
		o.Types = append(o.Types, name)
	}
	o.Free = o.Free.Positive() // what is overdrawn is none, and no reason to refuse what does not ask for it
	if len(o.Types) == 0 || len(o.Configs) == 0 {
		return o, false
	}
	if w.cfg.Holds != nil {
		o.Holds = w.cfg.Holds()
	}
	return o, true
}

// Slots is what jobs may take.
func (w *Worker) Slots() workload.Slots { return w.ledger.Total() }

// Resize changes what jobs may take, as when graphics cards are found that did not answer before. What runs goes on.
func (w *Worker) Resize(slots workload.Slots) {
	w.ledger.Resize(slots)
	w.Nudge()
}

// Hold has no work claimed that makes games, or has it claimed again. What runs goes on.
func (w *Worker) Hold(held bool) {
	w.mu.Lock()
	changed := w.held != held
	w.held = held
	w.mu.Unlock()
	if changed {
		w.Nudge()
	}
}

func makesGames(s workload.Stage) bool {
	return slices.ContainsFunc(s.Outputs, func(o workload.Output) bool { return o.Kind == workload.KindGames })
}

func (w *Worker) configs(wl *workload.Workload) []id.Config {
	if w.cfg.Configs == nil {
		return wl.Configs
	}
	var both []id.Config
	for _, c := range w.cfg.Configs() {
		if wl.HasConfig(c) {
			both = append(both, c)
		}
	}
	return both
}
