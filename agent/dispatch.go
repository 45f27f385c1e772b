package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// router is the part behind EVENT_ROUTER: while it runs, wakes are passed on and durable subscribers are served. Without it
// the log still grows, and nobody on this node hears of it.
type router struct {
	wakes wakes

	mu      sync.Mutex
	life    context.Context //nolint:containedctx // of Run
	running context.Context //nolint:containedctx // part of it, which the subscribers share
	end     context.CancelFunc
	changed chan struct{}
	placed  chan []event.Record
}

func newRouter() *router {
	return &router{changed: make(chan struct{}), placed: make(chan []event.Record, 64)}
}

// observe is called by the replica's writer and must not wait: when the router is behind or off, hints are dropped.
func (r *router) observe(records []event.Record) {
	select {
	case r.placed <- records:
	default:
	}
}

// Run implements kit.Daemon.
func (r *router) Run(ctx context.Context) error {
	r.set(ctx)
	defer r.set(nil)
	for {
		select {
		case records := <-r.placed:
			r.wakes.observe(records)
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *router) set(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.life = ctx
	r.serve(ctx)
}

// serve has subscribers served for as long as ctx lives, or no longer where it is nil. The caller holds mu.
func (r *router) serve(ctx context.Context) {
	if r.end != nil {
		r.end()
		r.end = nil
	}
	if r.running = ctx; ctx != nil {
		r.running, r.end = context.WithCancel(ctx)
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// rest runs f while no subscriber is served.
func (r *router) rest(f func() error) error {
	r.mu.Lock()
	r.serve(nil)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.running == nil && r.life != nil {
			r.serve(r.life)
		}
	}()
	return f()
}

// during runs f while the router runs, again after each time that the router was off.
func (r *router) during(ctx context.Context, f func(context.Context) error) error {
	for {
		r.mu.Lock()
		running, changed := r.running, r.changed
		r.mu.Unlock()
		if running == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		both, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(running, cancel)
		err := f(both)
		stop()
		cancel()
		if ctx.Err() != nil || err != nil {
			return err
		}
		if running.Err() == nil {
			return nil // f ended by itself
		}
	}
}

func (a *Agent) openDispatcher() error {
	var err error
	if a.cursors, err = eventlog.NewLocalCursors(a.local.db); err != nil {
		return fmt.Errorf("open cursors: %w", err)
	}
	if a.localLetters, err = eventlog.NewLocalLetters(a.local.db); err != nil {
		return fmt.Errorf("open dead letters: %w", err)
	}
	o := eventlog.DispatcherOptions{Replica: a.replica, Node: a.node.ID, Cursors: a.cursors, Letters: a.localLetters, Log: a.log}
	o.Deadline = a.lastTiming().Times().HandlerLimit
	a.dispatcher = eventlog.NewDispatcher(o)
	return nil
}

// Wake implements kit.Events.
func (e daemonEvents) Wake(ctx context.Context, types ...event.Type) <-chan event.Record {
	return e.a.router.wakes.subscribe(ctx, types)
}

// Consume implements kit.Events.
func (e daemonEvents) Consume(ctx context.Context, c kit.Consumer) error {
	name := c.Name
	if name == "" {
		name = e.daemon
	}
	out := eventlog.Consumer{
		Name: name, Handler: c.Handle,
		OnGap: func(_ context.Context, g eventlog.Compacted) error {
			if c.Gap != nil {
				c.Gap(g.From, g.To)
			}
			return nil
		},
		OnStuck: func(r event.Record) {
			e.a.supervisor.Cancel(e.daemon, fmt.Sprintf("its handler does not return from event %d", r.Seq))
		},
	}
	for _, t := range c.Types {
		out.Types = append(out.Types, string(t))
	}
	if e.fence != nil {
		// A singleton's place in the log and its failures belong to the ring, so that its successor goes on from there.
		out.Cursors, out.Letters, out.SaveEvery = ringCursors{e, ctx}, ringLetters{a: e.a, fence: *e.fence}, time.Second
		if f := e.a.opts.Faults.Cursors; f != nil {
			out.Cursors = f(out.Cursors)
		}
	}
	return e.a.router.during(ctx, func(ctx context.Context) error { return e.a.dispatcher.Subscribe(ctx, out) })
}

// ringCursors keep a singleton's position in the replicated state, under its epoch.
type ringCursors struct {
	e   daemonEvents
	run context.Context // of the daemon
}

// lastSave is how long a daemon that was told to stop may still try to save its position: often it stops because there is
// no coordinator who could take it, and it must be gone within its grace.
const lastSave = time.Second

// Load implements eventlog.CursorStore.
func (c ringCursors) Load(ctx context.Context, consumer string) (uint64, bool, error) {
	s, err := c.e.a.current(ctx)
	if err != nil {
		return 0, false, err
	}
	p, ok := s.Position(consumer)
	return p.Seq, ok, nil
}

// Save implements eventlog.CursorStore.
func (c ringCursors) Save(ctx context.Context, consumer string, seq uint64) error {
	if c.run.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, lastSave)
		defer cancel()
	}
	cmd := c.e.a.command(state.KindPosition, state.SetPositions{Positions: []ring.Position{{Consumer: consumer, Seq: seq, Epoch: c.e.fence.Epoch}}})
	cmd.Fence = c.e.fence
	_, err := c.e.a.leader.Propose(ctx, cmd)
	return kitError("save position", err)
}

// ringLetters keep a singleton's dead letters in the replicated state.
type ringLetters struct {
	a     *Agent
	fence ring.Fence
}

func toRing(l eventlog.Letter) ring.DeadLetter {
	return ring.DeadLetter{
		ID: l.ID, EventID: l.EventID, Seq: l.Seq, Type: l.Type, Handler: l.Handler, Node: l.Node, Error: l.Error,
		Attempts: l.Attempts + l.Retries, FirstFailed: l.FirstFailed.UTC(), LastFailed: l.LastFailed.UTC(), Abandoned: l.Abandoned,
	}
}

func fromRing(l ring.DeadLetter) eventlog.Letter {
	return eventlog.Letter{
		ID: l.ID, EventID: l.EventID, Seq: l.Seq, Type: l.Type, Handler: l.Handler, Node: l.Node, Error: l.Error,
		Attempts: l.Attempts, FirstFailed: l.FirstFailed, LastFailed: l.LastFailed, Abandoned: l.Abandoned,
	}
}

// Put implements eventlog.Letters.
func (r ringLetters) Put(ctx context.Context, l eventlog.Letter) error {
	return r.propose(ctx, toRing(l), false)
}

// Drop implements eventlog.Letters.
func (r ringLetters) Drop(ctx context.Context, letter string) error {
	l, err := r.Get(ctx, letter)
	if err != nil {
		return err
	}
	return r.propose(ctx, toRing(l), true)
}

func (r ringLetters) propose(ctx context.Context, l ring.DeadLetter, drop bool) error {
	cmd := r.a.command(state.KindDeadLetter, state.PutDeadLetter{Letter: l, Drop: drop})
	if r.fence.Daemon != "" {
		cmd.Fence = &r.fence
	}
	_, err := r.a.leader.Propose(ctx, cmd)
	return kitError("keep dead letter", err)
}

// List implements eventlog.Letters.
func (r ringLetters) List(context.Context) ([]eventlog.Letter, error) {
	var out []eventlog.Letter
	for l := range r.a.leader.View().DeadLetters() {
		out = append(out, fromRing(l))
	}
	return out, nil
}

// Get implements eventlog.Letters.
func (r ringLetters) Get(_ context.Context, letter string) (eventlog.Letter, error) {
	l, ok := r.a.leader.View().DeadLetter(letter)
	if !ok {
		return eventlog.Letter{}, eventlog.ErrNoLetter
	}
	return fromRing(l), nil
}

// deadLetters joins this node's letters with those of the singletons; it meets kit.Letters.
type deadLetters struct{ a *Agent }

func (a *Agent) letters() deadLetters { return deadLetters{a} }

// List implements kit.Letters: this node's, and of the singletons' those that this node can retry because it runs them.
func (d deadLetters) List(ctx context.Context) ([]ring.DeadLetter, error) { return d.list(ctx, false) }

// All lists also the letters of singletons that run elsewhere, for people.
func (d deadLetters) All(ctx context.Context) ([]ring.DeadLetter, error) { return d.list(ctx, true) }

func (d deadLetters) list(ctx context.Context, all bool) ([]ring.DeadLetter, error) {
	local, err := d.a.localLetters.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	out := []ring.DeadLetter{}
	for _, l := range local {
		out = append(out, toRing(l))
	}
	for l := range d.a.leader.View().DeadLetters() {
		if _, _, held := d.a.leader.Holder().Held(daemonOf(l.Handler)); held || all {
			out = append(out, l)
		}
	}
	return out, nil
}

// daemonOf is the daemon that a handler belongs to: "DAEMON" or "DAEMON/…".
func daemonOf(handler string) string {
	d, _, _ := strings.Cut(handler, "/")
	return d
}

// Retry implements kit.Letters.
func (d deadLetters) Retry(ctx context.Context, letter string) error {
	if _, err := d.a.localLetters.Get(ctx, letter); err == nil {
		return letterError(d.a.dispatcher.Retry(ctx, d.a.localLetters, letter))
	}
	l, ok := d.a.leader.View().DeadLetter(letter)
	if !ok {
		return letterError(eventlog.ErrNoLetter)
	}
	fence, _, held := d.a.leader.Holder().Held(daemonOf(l.Handler))
	if !held {
		return api.Errorf(api.CodeRefused, "%s does not run here; retry the letter on the node that holds it", daemonOf(l.Handler)).
			WithHint("which one that is: ringagent daemons")
	}
	return letterError(d.a.dispatcher.Retry(ctx, ringLetters{a: d.a, fence: fence}, letter))
}

// Abandon implements kit.Letters: the letter stays, marked, until somebody drops it.
func (d deadLetters) Abandon(ctx context.Context, letter string) error {
	if l, err := d.a.localLetters.Get(ctx, letter); err == nil {
		l.Abandoned = true
		return d.a.localLetters.Put(ctx, l)
	}
	l, ok := d.a.leader.View().DeadLetter(letter)
	if !ok {
		return letterError(eventlog.ErrNoLetter)
	}
	fence, _, held := d.a.leader.Holder().Held(daemonOf(l.Handler))
	if !held {
		return nil // its holder will
	}
	l.Abandoned = true
	return ringLetters{a: d.a, fence: fence}.propose(ctx, l, false)
}

// Drop gives a letter up for good.
func (d deadLetters) Drop(ctx context.Context, letter string) error {
	err := d.a.localLetters.Drop(ctx, letter)
	if !errors.Is(err, eventlog.ErrNoLetter) {
		return err
	}
	if err := d.a.forCore("drop a singleton's dead letter"); err != nil {
		return err
	}
	return letterError(ringLetters{a: d.a}.Drop(ctx, letter))
}

func letterError(err error) error {
	if errors.Is(err, eventlog.ErrNoLetter) {
		return api.Errorf(api.CodeNotFound, "no such dead letter").WithHint("list them with: ringagent dlq list")
	}
	if errors.Is(err, eventlog.ErrNoHandler) {
		return api.Errorf(api.CodeRefused, "%v", err).WithHint("see what runs here: ringagent daemons; start it, or give the letter up with: ringagent dlq drop ID")
	}
	return err
}
