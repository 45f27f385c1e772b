package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/httpd"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
	"github.com/ringagent/ringagent/mesh"
)

// Times of starting and stopping.
const (
	daemonsStop  = 10 * time.Second // for all daemons together
	drainLimit   = 10 * time.Second // for an edge node's last push
	outboxLinger = 2 * time.Second  // for the last events to find their place
)

// ErrAbrupt, as the cause of the end of Run's context, ends the agent as kill -9 would, as far as one process allows:
// nothing is drained, nothing waits for its place, nobody is told. Tests of whole rings need it.
var ErrAbrupt = errors.New("end without winding down")

// Run starts everything, serves until ctx ends, and stops in the reverse order. Jobs go on: the next start adopts them.
// It returns nil after a stop that was asked for.
func (a *Agent) Run(ctx context.Context) error {
	defer a.dir.close()
	defer func() { _ = a.local.close() }()

	// The base outlives the daemons: what they do last still needs the mesh, the coordinator and the log.
	base, endBase := context.WithCancel(context.WithoutCancel(ctx))
	defer endBase()
	baseDone := make(chan error, 1)
	baseFailed, cancelCause := context.WithCancelCause(ctx)
	defer cancelCause(nil)
	go func() {
		err := runParts(base,
			part{"mesh", a.mesh.Run},
			part{"leader", a.leader.Run},
			part{"event replica", a.replica.Run},
			part{"outbox", a.outbox.Run},
			part{"artifacts", func(ctx context.Context) error { a.serveBlobs(ctx); return nil }},
			part{"event stream", func(ctx context.Context) error { a.follow(ctx); return nil }},
			part{"roster", func(ctx context.Context) error { a.watchState(ctx); return nil }},
			part{"socket", a.serveSocket},
			part{"plain http", a.plain.run},
			part{"secure http", a.secure.run},
		)
		if err != nil {
			cancelCause(err)
		}
		baseDone <- err
	}()

	a.log.Info().Str("version", Build()).Str("boot", string(a.boot)).Str("class", string(a.node.Class)).Stringer("listen", a.mesh.Addr()).Msg("agent started")
	work, endWork := context.WithCancel(baseFailed)
	defer endWork()
	workDone := make(chan error, 1)
	go func() {
		workDone <- runParts(work,
			part{"introduction", func(ctx context.Context) error { a.introduce(ctx); return nil }},
			part{"worker", a.worker.Run},
			part{"slots", func(ctx context.Context) error { a.followSlots(ctx); return nil }},
			part{"supervisor", a.supervisor.Run},
			part{"copies", func(ctx context.Context) error { a.store.reconcile(ctx); return nil }},
			part{"leases", func(ctx context.Context) error { a.passLeases(ctx); return nil }},
			part{"generations", func(ctx context.Context) error { a.followGenerations(ctx); return nil }},
			part{"settings", func(ctx context.Context) error { a.followSettings(ctx); return nil }},
		)
	}()
	close(a.ready)

	var err error
	left := false
	select {
	case <-baseFailed.Done():
		if ctx.Err() == nil {
			err = context.Cause(baseFailed)
		}
	case err = <-workDone:
		workDone <- nil
		if err == nil {
			err = errors.New("the agent's work ended by itself")
		}
	case <-a.leaving:
		left = true
	case err = <-a.fatal:
	}
	close(a.stopping)
	if errors.Is(context.Cause(ctx), ErrAbrupt) {
		endWork()
		endBase()
		<-workDone
		<-baseDone
		return nil
	}
	a.log.Info().Msg("agent stops")
	stops := time.Now()
	if !left { // else all that is done
		a.wind(base)
	}
	wound := time.Now()
	endWork()
	if werr := <-workDone; werr != nil && err == nil && ctx.Err() == nil && !left {
		err = werr
	}
	ended := time.Now()
	a.linger(base)
	lingered := time.Now()
	if left {
		_ = a.mesh.Leave(withLimit(base, 3*time.Second))
	}
	endBase()
	if berr := <-baseDone; berr != nil && err == nil && ctx.Err() == nil && !left {
		err = berr
	}
	a.log.Info().Dur("drain_ms", wound.Sub(stops)).Dur("daemons_ms", ended.Sub(wound)).Dur("outbox_ms", lingered.Sub(ended)).
		Dur("parts_ms", time.Since(lingered)).Msg("agent stopped")
	return err
}

func withLimit(ctx context.Context, d time.Duration) context.Context {
	out, cancel := context.WithTimeout(ctx, d)
	context.AfterFunc(out, cancel)
	return out
}

// wind does what must happen while everything still runs: stop claiming, and on a rented node push what is unsynced, so
// that no finished game goes with the machine.
func (a *Agent) wind(base context.Context) {
	a.setDraining(true)
	if a.node.Class == id.Edge {
		a.pushLast(withLimit(base, drainLimit))
	}
}

// pushLast has the daemons that hold something push it out, as far as there is somebody to take it.
func (a *Agent) pushLast(ctx context.Context) {
	if a.leader.Freshness().Coordinator == "" {
		a.log.Warn().Msg("no coordinator; unsynced games wait for the next start")
		return
	}
	if err := a.supervisor.Drain(ctx); err != nil {
		a.log.Warn().Err(err).Msg("unsynced games wait for the next start")
	}
	// Where the daemon that pushes was not running, nothing was drained and nothing failed.
	if n, _ := a.unsyncedHere(ctx); n == nil {
		a.log.Warn().Msg("it is not known whether games of this node are nowhere else")
	} else if *n > 0 {
		a.log.Info().Int64("games", *n).Msg("games that were finished since wait for the next start")
	}
}

// linger lets the outbox hand over what it still has, as far as there is somebody to take it.
func (a *Agent) linger(base context.Context) {
	ctx := withLimit(base, outboxLinger)
	for ctx.Err() == nil {
		st := a.outbox.Status()
		if st.Unplaced() == 0 || a.leader.Freshness().Coordinator == "" {
			return
		}
		pause(ctx, 20*time.Millisecond)
	}
}

func (a *Agent) serveBlobs(ctx context.Context) {
	l := a.mesh.Listener(mesh.BlobProtocol)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	a.store.serve(ctx, l)
}

// serveSocket answers the command line. The socket's mode is its guard.
func (a *Agent) serveSocket(ctx context.Context) error {
	path := a.socketPath()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("clear socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("guard socket: %w", err)
	}
	return a.server.Serve(ctx, l, httpd.TrustSocket)
}

// watchState keeps what follows from the replicated state: the roster that admits peers, revocations, the timing on disk.
func (a *Agent) watchState(ctx context.Context) {
	timing := ring.Timing("")
	for {
		changed := a.leader.Changes()
		s := a.leader.View()
		a.takeRoster(s)
		if settings, version := s.Settings(); version > 0 && settings.Timing != timing {
			if err := os.WriteFile(a.dir.path("timing"), []byte(settings.Timing), 0o600); err == nil {
				timing = settings.Timing
			}
		}
		a.watchAlarms(s, time.Now().UTC())
		_ = a.mesh.UpdateMeta(func(m *mesh.Meta) { m.Voter = a.isVoter() })
		a.worker.Nudge()
		select {
		case <-changed:
			// Many entries a second change nothing here: look again a little later.
			pause(ctx, 50*time.Millisecond)
		case <-ctx.Done():
			return
		}
	}
}

// introduce tells the ring about this boot, and on a ring's very first start what Init has prepared. It tries until it is
// heard, and then again whenever the roster shows another boot, status or slots than the truth.
func (a *Agent) introduce(ctx context.Context) {
	for wait := 200 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
		err := a.sayHello(ctx)
		if err == nil {
			break
		}
		a.log.Debug().Err(err).Msg("not introduced yet")
		if !pause(ctx, wait) {
			return
		}
	}
	for {
		changed := a.leader.Changes()
		m, ok := a.leader.View().Member(a.node.ID)
		if ok && m.Boot == a.boot && m.Status == ring.Left && !a.departing.Load() {
			// It was stated, and the answer was lost: what has left must not go on.
			select {
			case a.leaving <- struct{}{}:
			case <-a.stopping:
			case <-ctx.Done():
			}
			return
		}
		if ok && !m.Revoked && (m.Boot != a.boot || m.Status != ring.Alive || m.Slots != ringSlots(a.worker.Slots())) && !a.draining.Load() && a.leader.Freshness().Known {
			err := a.sayHello(ctx)
			if err != nil {
				a.log.Debug().Err(err).Msg("not introduced again")
			}
			if !pause(ctx, time.Second) {
				return
			}
			if err != nil && !errors.As(err, new(*leader.Refused)) {
				continue // perhaps nothing else changes, and nobody would say it again
			}
		}
		select {
		case <-changed:
		case <-a.changed:
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) sayHello(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := a.sown(ctx); err != nil {
		return err
	}
	c := a.conf.Load()
	me := ring.Member{
		ID: a.node.ID, Name: a.node.Name, Class: a.node.Class, Labels: c.Labels, FailureDomain: c.FailureDomain,
		Slots: ringSlots(a.worker.Slots()), Boot: a.boot, Version: Build(), Commands: StateVersion,
	}
	if s := advertised(*c); s != "" {
		me.Addresses = []string{s}
	}
	if m, ok := a.roster.Lookup(a.node.ID); ok {
		me.KeyHash = string(m.Key)
	}
	_, err := a.leader.Propose(ctx, a.command(state.KindReport, state.Report{Member: me}))
	return err
}

// sow gives a new ring its first member and its settings. Saying it twice, or at the same time, is harmless: what stands
// already is refused.
func (a *Agent) sow(ctx context.Context, seed seedFile) error {
	var refused *leader.Refused
	_, err := a.leader.Propose(ctx, a.command(state.KindEnrol, state.Enrol{Class: id.Core, Member: seed.Member}))
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	if _, version := a.leader.View().Settings(); version == 0 {
		_, err := a.leader.Propose(ctx, a.command(state.KindSettings, state.PutSettings{Settings: seed.Settings}))
		if err != nil && !errors.As(err, &refused) {
			return err
		}
	}
	if err := os.Remove(a.dir.path("seed.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove seed: %w", err)
	}
	return nil
}

// settingsKnown waits until the ring's settings are known here: a moment after its first start, or after it was taken in, a node
// knows of no workload, which is not to say that there is none.
func (a *Agent) settingsKnown(ctx context.Context) error {
	if err := a.sown(ctx); err != nil {
		return decided(err)
	}
	ctx, cancel := context.WithTimeout(ctx, settingsWait)
	defer cancel()
	for {
		changed := a.leader.Changes()
		if _, version := a.leader.View().Settings(); version > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return api.Errorf(api.CodeNoQuorum, "the settings of the ring are not known here yet").WithHint("see: ringagent status")
		}
	}
}

const settingsWait = 5 * time.Second

// sown sees to it that the ring's first member stands in the roster. Whoever were let in before it would get a roster
// without it, and refuse the only voter.
func (a *Agent) sown(ctx context.Context) error {
	seed, seeded, err := a.dir.readSeed()
	if err != nil || !seeded {
		return err
	}
	return a.sow(ctx, seed)
}
