package datasync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// joiner makes one pack of many old ones, so that the ring's room lasts. It runs beside a core node's merger, which offers it what to
// join and does not wait for it, one core node at a time for a config; should two be at it, the state lets one of them through. Nothing goes by its word alone: whoever holds an
// old pack looks for its games in the joined one before it asks for the permit to delete.
type joiner struct {
	self    kit.Self
	set     JoinSettings
	log     zerolog.Logger
	now     func() time.Time
	staging string
	store   kit.Store
	local   kit.Local
	views   kit.Views
	effects kit.Effects
	courier *kit.Courier
	wanted  map[id.Config][]kit.Delivery // of the one courier

	mu      sync.Mutex // of these
	offers  map[id.Config][]ring.Artifact
	unfit   map[id.Digest]bool      // packs that are not joined, for as long as this agent runs
	refused map[id.Digest]time.Time // until when packs are not joined whose joined pack was refused
	failed  map[id.Digest]time.Time // until when packs that could not be joined here let others go first
	later   map[id.Config]time.Time // when packs are joined again after a failure
	under   map[id.Config]id.Digest // joined packs on their way
}

// JoinSettings say when AUTO_SYNC joins packs.
type JoinSettings struct {
	After kit.Duration `json:"join_after"` // since a pack was made; 0: never
	Packs int          `json:"join_packs"` // so many make a joined one, if their sizes do not make it before
}

// Validate implements kit's check.
func (s JoinSettings) Validate() error {
	if s.After < 0 || s.Packs < 2 || s.Packs > mostJoined {
		return fmt.Errorf("want join_after not negative and join_packs 2 to %d", mostJoined)
	}
	return nil
}

// Bounds of a joined pack: it is fetched, checked and merged as a whole. A pack of a quarter of it stays as it is.
const (
	mostJoined      = 512
	mostJoinedGames = 10_000
	mostJoinedBytes = 32 << 20
	// fewestFull is how many packs are joined at least when more do not fit, or when a pack that cannot be joined is in the way; or
	// join_packs, if that is less.
	fewestFull = 8
	// joinTurn is how long the same core node joins a config's packs.
	joinTurn = time.Hour
	// joinTries is how often a joined pack is proposed that is refused for a reason that should not be.
	joinTries = 10
	// refusedRest is how long packs stay as they are after that: the reason may have passed, as when a node was away.
	refusedRest = 6 * time.Hour
	// joinWait is how long other core nodes leave a config to one whose joined pack is known and waits, for work to end or for copies.
	joinWait = 6 * time.Hour
	// failedRest is how long packs that this machine could not join let others of their config go first.
	failedRest = time.Hour
	// joinRetry is when packs are joined again after this machine could not, for want of room or whatever: it costs much each time.
	joinRetry = 10 * time.Minute
)

func newJoiner(env kit.Env, set JoinSettings) *joiner {
	return &joiner{self: env.Self, set: set, log: env.Log, now: env.Now, staging: env.Dirs.Staging, store: env.Store, local: env.Local, views: env.View,
		effects: env.Effects, wanted: map[id.Config][]kit.Delivery{}, offers: map[id.Config][]ring.Artifact{},
		unfit: map[id.Digest]bool{}, refused: map[id.Digest]time.Time{}, failed: map[id.Digest]time.Time{}, later: map[id.Config]time.Time{},
		under:   map[id.Config]id.Digest{},
		courier: kit.NewCourier(&kit.Courier{Orders: env.Orders, Parallel: 1})}
}

// joined is a pack on its way: its bytes are in the store, and it is written down before anybody hears of it.
type joined struct {
	Digest id.Digest   `json:"sha256"`
	Bytes  int64       `json:"bytes"`
	Games  int64       `json:"games"`
	Packs  []id.Digest `json:"packs"`
	Made   time.Time   `json:"made"`
	Tries  int         `json:"tries,omitempty"` // refused so often
}

func joinKey(c id.Config) string { return "join/" + string(c) }

func (j *joiner) step(ctx context.Context) error {
	var errs []error
	for _, c := range j.views.Near().Ring.Configs {
		if err := j.config(ctx, c); err != nil {
			errs = append(errs, fmt.Errorf("join packs of %s: %w", c, err))
		}
	}
	return errors.Join(errs...)
}

// config goes on with the joined pack that is under way, or begins one.
func (j *joiner) config(ctx context.Context, c id.Config) error {
	group := j.taken(c)
	var p joined
	raw, under, err := j.local.Get(joinKey(c))
	if err == nil && under {
		err = json.Unmarshal(raw, &p)
	}
	if err != nil {
		return fmt.Errorf("read joined pack: %w", err)
	}
	if under {
		j.begun(c, p)
		return j.finish(ctx, c, p)
	}
	if len(group) == 0 {
		return nil
	}
	v, err := j.views.Current(ctx)
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if !v.Joins || !intact(v, digests(group)) || j.elsewhere(v, c) {
		return nil
	}
	if p, err = j.make(ctx, c, group); err != nil || p.Digest == "" {
		if err != nil {
			j.putOff(c, group)
		}
		return err
	}
	return j.finish(ctx, c, p)
}

// make writes the joined pack and holds it against every pack that it is made of. A zero joined and no error say that one of them
// cannot be joined.
func (j *joiner) make(ctx context.Context, c id.Config, group []ring.Artifact) (joined, error) {
	path := filepath.Join(j.staging, "join-"+string(c)+".db")
	defer os.Remove(path)
	p := joined{Packs: digests(group), Made: j.now().UTC()}
	of := map[string]id.Digest{}
	var paths []string
	sound, err := j.sound(ctx, group)
	if err != nil || !sound {
		return joined{}, err
	}
	for _, a := range group {
		file, here := j.store.Path(a.Digest)
		if !here {
			return joined{}, nil
		}
		// What the ring counts is what a node said. Games that are not in the file cannot be joined, and stay counted.
		err := asCounted(ctx, file, a)
		if gamedb.Damaged(err) || errors.Is(err, gamedb.ErrNewerSchema) {
			j.leave(a.Digest, err)
			return joined{}, nil
		}
		if err != nil {
			return joined{}, fmt.Errorf("count games of pack %s: %w", a.Digest.Short(), err)
		}
		of[file] = a.Digest
		paths = append(paths, file)
	}
	info, err := gamedb.Join(ctx, path, paths)
	unfit := gamedb.Unfit(err)
	for _, u := range unfit {
		j.leave(of[u.Pack], u)
	}
	if len(unfit) > 0 {
		return joined{}, nil
	}
	if err != nil {
		return joined{}, fmt.Errorf("join %d packs: %w", len(paths), err)
	}
	if err := gamedb.Verify(ctx, path); err != nil {
		return joined{}, fmt.Errorf("check joined pack: %w", err)
	}
	for _, file := range slices.Sorted(maps.Keys(of)) {
		if err := gamedb.Holds(ctx, path, file); errors.Is(err, gamedb.ErrNotHeld) {
			j.leave(of[file], err)
			return joined{}, nil
		} else if err != nil {
			return joined{}, fmt.Errorf("compare joined pack: %w", err)
		}
	}
	p.Games = int64(info.Games)
	if p.Digest, p.Bytes, err = digestOf(path); err != nil {
		return joined{}, fmt.Errorf("read joined pack: %w", err)
	}
	// It is written down first: bytes in the store that neither the ring nor this node knows would stay there for good.
	if err := j.keep(c, p); err != nil {
		return joined{}, err
	}
	stored, _, err := j.store.PutFile(ctx, path)
	if err == nil && stored != p.Digest {
		err = fmt.Errorf("it has changed into %s", stored.Short())
	}
	if err != nil {
		return joined{}, fmt.Errorf("store joined pack: %w", err)
	}
	return p, nil
}

func digestOf(path string) (id.Digest, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return id.Digest(hex.EncodeToString(h.Sum(nil))), n, err
}

// sound checks the copies of all packs before any is used. Those that are damaged are put aside, all of them in one step: the
// next one makes do without them until they have been fetched again, and the merging of new packs is not held up by them.
func (j *joiner) sound(ctx context.Context, group []ring.Artifact) (bool, error) {
	all := true
	for _, a := range group {
		err := j.store.Verify(ctx, a.Digest)
		if err == nil {
			continue
		}
		if _, here := j.store.Path(a.Digest); here || ctx.Err() != nil {
			return false, fmt.Errorf("check pack %s: %w", a.Digest.Short(), err)
		}
		all = false
	}
	return all, nil
}

func (j *joiner) keep(c id.Config, p joined) error {
	raw, err := json.Marshal(p)
	if err == nil {
		err = j.local.Put(joinKey(c), raw)
	}
	if err != nil {
		return fmt.Errorf("keep joined pack: %w", err)
	}
	j.begun(c, p)
	return nil
}

// finish makes the joined pack known, brings it to where a pack has its copies, and then lets it take the others' place.
func (j *joiner) finish(ctx context.Context, c id.Config, p joined) error {
	v, err := j.views.Current(ctx)
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	a, known := v.Library.Artifact(p.Digest)
	if known && a.Kind == ring.KindPack && a.Place != 0 {
		j.want(ctx, c, nil)
		return j.done(c)
	}
	_, here := j.store.Path(p.Digest)
	another := known && (a.Kind != ring.KindFile || a.Labels[ring.LabelJoins] != string(c))
	if !here || another || !intact(v, p.Packs) || p.Tries >= joinTries {
		return j.giveUp(ctx, c, p, a, another)
	}
	if !known || !a.Held(j.self.ID) {
		if err := j.announce(ctx, c, p); err != nil {
			return err
		}
		if v, err = j.views.Current(ctx); err != nil {
			return fmt.Errorf("read state: %w", err)
		}
		if a, known = v.Library.Artifact(p.Digest); !known {
			return nil
		}
	}
	members, copies := v.Fleet.Members(), v.Ring.CopiesOf(ring.KindPack)
	if n, core := kit.Copies(members, a, j.self.ID); !core || n < max(1, min(copies, potential(members, j.self.ID))) {
		var wanted []kit.Delivery
		targets, _ := kit.ChooseHolders(members, a, j.self.ID, copies, func(n id.Node) bool {
			fails, _ := j.courier.Failures(kit.Delivery{Digest: p.Digest, Node: n})
			return fails > 2
		})
		for _, n := range targets {
			wanted = append(wanted, kit.Delivery{Digest: p.Digest, Node: n})
		}
		j.want(ctx, c, wanted)
		return nil
	}
	if !v.Joins || needed(v, c, setOf(p.Packs)) {
		return nil
	}
	switch err := j.effects.JoinPacks(ctx, p.Digest, p.Games, p.Packs...); {
	case err == nil:
	case ctx.Err() != nil, errors.Is(err, kit.ErrNoCoordinator):
		return fmt.Errorf("join packs: %w", err)
	case errors.Is(err, kit.ErrConflict), errors.Is(err, kit.ErrNotFound): // somebody needs them, or has joined them
		return nil
	default:
		p.Tries++
		return errors.Join(fmt.Errorf("join packs: %w", err), j.keep(c, p))
	}
	j.log.Info().Str("config", string(c)).Str("pack", p.Digest.Short()).Int("packs", len(p.Packs)).Int64("games", p.Games).Msg("packs joined")
	j.want(ctx, c, nil)
	return j.done(c)
}

// announce makes the joined pack known as a file of this node.
func (j *joiner) announce(ctx context.Context, c id.Config, p joined) error {
	file := ring.Artifact{Digest: p.Digest, Kind: ring.KindFile, Config: c, Bytes: p.Bytes, Created: p.Made, Origin: j.self.ID,
		Holders: []id.Node{j.self.ID}, Labels: map[string]string{ring.LabelJoins: string(c)}}
	if err := j.effects.AddArtifacts(ctx, file); err != nil {
		return fmt.Errorf("make joined pack known: %w", err)
	}
	return nil
}

// want has the config's joined pack brought to nodes, and leaves those of other configs on their way.
func (j *joiner) want(ctx context.Context, c id.Config, wanted []kit.Delivery) {
	j.wanted[c] = wanted
	j.courier.Want(ctx, slices.Concat(slices.Collect(maps.Values(j.wanted))...), j.now())
}

// giveUp leaves the packs as they are: for a while if the joined pack was refused again and again, and for as long as this agent runs
// if its bytes are those of another artifact, which is not to go for that.
func (j *joiner) giveUp(ctx context.Context, c id.Config, p joined, a ring.Artifact, another bool) error {
	j.log.Warn().Str("config", string(c)).Str("pack", p.Digest.Short()).Int("tries", p.Tries).Msg("packs stay as they are")
	j.mu.Lock()
	for _, d := range p.Packs {
		if another {
			j.unfit[d] = true
		} else if p.Tries >= joinTries {
			j.refused[d] = j.now().Add(refusedRest)
		}
	}
	j.mu.Unlock()
	j.want(ctx, c, nil)
	if !another {
		if err := j.discard(ctx, c, p, a.Held(j.self.ID)); err != nil {
			return err
		}
	}
	return j.done(c)
}

// discard deletes this node's copy of a joined pack that is given up. One that may not go now goes with the discarder, later on.
func (j *joiner) discard(ctx context.Context, c id.Config, p joined, held bool) error {
	if !held {
		if _, here := j.store.Path(p.Digest); !here {
			return nil
		}
		// There is no permit for what the ring does not know to be here, neither now nor later.
		if err := j.announce(ctx, c, p); err != nil {
			return err
		}
	}
	err := j.store.Discard(ctx, p.Digest)
	if err != nil && (ctx.Err() != nil || errors.Is(err, kit.ErrNoCoordinator)) {
		return fmt.Errorf("discard joined pack: %w", err)
	}
	if err != nil {
		j.log.Debug().Err(err).Str("pack", p.Digest.Short()).Msg("a joined pack that nobody wants stays for now")
	}
	return nil
}

func (j *joiner) done(c id.Config) error {
	if err := j.local.Delete(joinKey(c)); err != nil {
		return fmt.Errorf("forget joined pack: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.under, c)
	return nil
}
