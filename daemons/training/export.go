package training

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// ExportSettings are the figures of AUTO_EXPORT.
type ExportSettings struct {
	Games      int64        `json:"games"`       // new games that make an export
	Immediate  int64        `json:"immediate"`   // so many do not wait for the cooldown
	Few        int64        `json:"few"`         // fewer than this never make one
	BatchAfter kit.Duration `json:"batch_after"` // after which Few are enough
	Cooldown   kit.Duration `json:"cooldown"`
	Window     int          `json:"window"`    // generations whose games a dataset contains; 0: all there are
	MaxGames   int64        `json:"max_games"` // the newest packs up to so many games; 0: all of the window
}

// Validate implements kit's check.
func (s ExportSettings) Validate() error {
	if s.Few < 1 || s.Games < s.Few || s.Immediate < s.Games || s.Window < 0 || s.Window > 200 || s.MaxGames < 0 || s.Cooldown < 0 {
		return errors.New("want 1 ≤ few ≤ games ≤ immediate, window 0 to 200, max_games and cooldown not negative")
	}
	return nil
}

// Export is AUTO_EXPORT.
func Export() kit.Spec {
	defaults := ExportSettings{Games: 50, Immediate: 100, Few: 25, BatchAfter: kit.Duration(30 * time.Second),
		Cooldown: kit.Duration(60 * time.Second), Window: 20}
	s := kit.Spec{
		Name: "AUTO_EXPORT", Category: "training", Scope: kit.ScopeCluster, Classes: []id.Class{id.Core},
		Doc:       "Asks for a dataset as soon as enough new games have their receipts.",
		DependsOn: []string{"EVENT_ROUTER"}, Every: 30 * time.Second, Settings: defaults,
		Reads: []event.Type{event.NewGamesAvailable.Type(), event.DataSyncCompleted.Type(), event.SelfplayComplete.Type(),
			event.NPZExportComplete.Type(), event.WorkFailed.Type(), event.PipelineStageOverdue.Type()},
		Emits: []event.Type{event.NPZExportStarted.Type(), event.ExportValidationFailed.Type()},
	}
	s.New = func(env kit.Env) (kit.Daemon, error) {
		set, err := kit.Decode(env.Settings, defaults)
		if err != nil {
			return nil, err
		}
		list := packList{env.Self, env.Dirs.Staging, env.Store, env.Effects}
		return kit.NewPlanner(env, kit.Planner{Wake: s.Reads, Plan: set.plan, Prepare: list.prepare}), nil
	}
	return s
}

// exported is the note of one config. Games are counted by the packs that arrived after a mark, so that neither a repeated
// event nor a game that comes in during an export is counted twice or lost.
type exported struct {
	Generation uint64    `json:"generation"` // of the newest item
	Marks      []uint64  `json:"marks"`      // the last pack of each generation in the window, oldest first
	Asked      time.Time `json:"asked"`
	Failures   int       `json:"failures"` // in a row
	Settled    bool      `json:"settled"`  // the newest item's end is taken into account
	// Packs up to the mark that had no receipts yet when it passed them, the newest of them: they count when they get them.
	Late []id.Digest `json:"late,omitempty"`
	// Those of them that the newest item has counted, which its failure gives back.
	Caught []id.Digest `json:"caught,omitempty"`
}

// maxLate keeps the note well within its 16 KiB. A pack that is forgotten is in the datasets all the same, uncounted.
const maxLate = 64

func (e exported) mark() uint64 {
	if len(e.Marks) == 0 {
		return 0
	}
	return e.Marks[len(e.Marks)-1]
}

// counts says whether a pack's games are new since the last export. Only what has its receipts counts: a dataset must not
// wait for bytes that one disk holds.
func (e exported) counts(a ring.Artifact) bool {
	from := a.Order()
	if a.First != 0 {
		from = a.First // of a pack joined of old ones and new ones most games are old
	}
	return a.Safe && (from > e.mark() || slices.Contains(e.Late, a.Digest))
}

// passed is Late and Caught for a mark at last.
func (e exported) passed(packs []ring.Artifact, last uint64) (late, caught []id.Digest) {
	for _, a := range packs {
		switch known := slices.Contains(e.Late, a.Digest); {
		case a.Safe && known:
			caught = append(caught, a.Digest)
		case !a.Safe && a.Order() <= last && (known || a.Order() > e.mark()):
			late = append(late, a.Digest)
		}
	}
	return late[max(0, len(late)-maxLate):], caught
}

func exportNote(c id.Config) string { return "export/" + string(c) }

func (s ExportSettings) plan(v kit.View, now time.Time) (kit.Plan, error) {
	var plan kit.Plan
	for _, c := range v.Ring.Configs {
		state, err := kit.ReadNote[exported](v.Notes, exportNote(c))
		if err != nil {
			return plan, err
		}
		if change := s.settle(v, c, &state); change != nil {
			plan.Notes = append(plan.Notes, *change)
		}
		s.next(v, c, state, now, &plan)
	}
	return plan, nil
}

// settle takes the end of the newest item into account; a failure gives its games back.
func (s ExportSettings) settle(v kit.View, c id.Config, state *exported) *kit.NoteChange {
	if state.Generation == 0 || state.Settled {
		return nil
	}
	w, known := v.Queue.ByKey(kit.ExportKey(c, state.Generation))
	if known && !w.State.Finished() {
		return nil
	}
	state.Settled = true
	change := &kit.NoteChange{Key: exportNote(c)}
	if known && !kit.Made(w, ring.KindDataset) {
		state.Failures++
		state.Marks = state.Marks[:max(0, len(state.Marks)-1)]
		// What came after the mark that stands now counts by its place; the note would grow with every failure otherwise.
		mark := state.mark()
		state.Late = slices.DeleteFunc(append(state.Late, state.Caught...), func(d id.Digest) bool {
			a, ok := v.Library.Artifact(d)
			return !ok || a.Order() > mark
		})
		reason := w.Error
		if reason == "" {
			reason = "the run ended " + string(w.State) + " without a dataset"
		}
		change.Events = []kit.Statement{{Type: event.ExportValidationFailed.Type(),
			Payload: event.ExportInvalid{About: event.About{Config: c}, WorkID: w.ID, Reason: reason}}}
	} else {
		state.Failures = 0
	}
	state.Caught = nil
	change.Value = *state
	return change
}

func (s ExportSettings) next(v kit.View, c id.Config, state exported, now time.Time, plan *kit.Plan) {
	if pending, running := kit.Unfinished(v.Queue, kit.StageExport, c); pending+running > 0 || (state.Generation > 0 && !state.Settled) {
		return
	}
	var fresh int64
	var oldest time.Time
	last := state.mark()
	packs := v.Library.Artifacts(ring.KindPack, c)
	slices.SortStableFunc(packs, func(a, b ring.Artifact) int { return cmp.Compare(a.Order(), b.Order()) })
	for _, a := range packs {
		if state.counts(a) {
			fresh = ring.AddGames(fresh, a.Games())
			last = max(last, a.Order())
			if oldest.IsZero() || a.Created.Before(oldest) {
				oldest = a.Created
			}
		}
	}
	wait := s.Cooldown.D() << min(state.Failures, 5)
	cool := state.Generation == 0 || now.Sub(state.Asked) >= wait
	switch {
	case state.Failures > 0 && !cool:
		return
	case fresh >= s.Immediate:
	case fresh >= s.Games && cool:
	case fresh >= s.Few && cool && now.Sub(oldest) >= s.BatchAfter.D():
	default:
		return
	}
	from := uint64(0)
	if n := len(state.Marks); s.Window > 0 && n >= s.Window {
		from = state.Marks[n-s.Window]
	}
	inputs, games := window(v, packs, from, last, s.MaxGames)
	if len(inputs) == 0 {
		return
	}
	var deadline time.Time
	if len(inputs) > kit.MaxInputs {
		if w, known := v.Queue.ByKey(kit.ExportKey(c, state.Generation)); known && now.Sub(w.Finished) < listPause {
			return
		}
		deadline = now.Add(listFor)
	}
	state.Late, state.Caught = state.passed(packs, last)
	state.Generation++
	state.Marks = append(state.Marks[:len(state.Marks):len(state.Marks)], last)
	// One more than the window, so that a failure can give the newest mark back; enough when the window is "all".
	if over := len(state.Marks) - max(s.Window, 8) - 1; over > 0 {
		state.Marks = state.Marks[over:]
	}
	state.Asked, state.Settled = now, false
	key := kit.ExportKey(c, state.Generation)
	plan.Items = append(plan.Items, ring.WorkItem{Type: kit.StageExport, Config: c, Key: key, Priority: kit.PriorityExport,
		Generation: state.Generation, Inputs: inputs, MaxAttempts: 3, Deadline: deadline,
		Params: map[string]string{"games": strconv.FormatInt(games, 10), "seed": kit.SeedOf(key)}})
	plan.Notes = append(plan.Notes, kit.NoteChange{Key: exportNote(c), Value: state, Events: []kit.Statement{{
		Type: event.NPZExportStarted.Type(),
		Payload: kit.Lazy(func(workID func(string) string) any {
			return event.ExportStarted{About: event.About{Config: c}, WorkID: workID(key), Games: fresh}
		})}}})
}

// listFor is how long an item with a list of packs may wait: the queue does not see what a list names, so that nothing else
// ends it when one of those packs is lost.
const listFor = 2 * time.Hour

// listPause is between the end of an item and one with a list: while that is unfinished no packs of its config are joined or deleted,
// since what it reads is not known, and in a ring that plays more than it exports there would be no other time for it.
const listPause = 45 * time.Second

// window lists the packs with receipts after from up to last that somebody still has, oldest first; with most, only the
// newest that hold so many games, so that a dataset costs the same however fast the ring plays.
func window(v kit.View, packs []ring.Artifact, from, last uint64, most int64) (inputs []ring.Input, games int64) {
	for _, a := range slices.Backward(packs) {
		if !a.Safe || a.Order() <= from || a.Order() > last {
			continue
		}
		if most > 0 && games >= most {
			break
		}
		for _, h := range a.Holders {
			if m, ok := v.Fleet.Member(h); ok && m.Serves() {
				inputs = append(inputs, ring.Input{Role: kit.RolePack, Digest: a.Digest})
				games = ring.AddGames(games, a.Counters[kit.CounterGames])
				break
			}
		}
	}
	slices.Reverse(inputs)
	return inputs, games
}

// packList turns the inputs of an item that has very many packs into one artifact.
type packList struct {
	self    kit.Self
	staging string
	store   kit.Store
	effects kit.Effects
}

func (p packList) prepare(ctx context.Context, w *ring.WorkItem) error {
	if len(w.Inputs) <= kit.MaxInputs {
		return nil
	}
	var b strings.Builder
	for _, in := range w.Inputs {
		fmt.Fprintln(&b, in.Digest)
	}
	path := filepath.Join(p.staging, strings.ReplaceAll(w.Key, "/", "-")+".packs")
	defer os.Remove(path)
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write pack list: %w", err)
	}
	d, n, err := p.store.PutFile(ctx, path)
	if err != nil {
		return fmt.Errorf("store pack list: %w", err)
	}
	err = p.effects.AddArtifacts(ctx, ring.Artifact{Digest: d, Kind: ring.KindFile, Config: w.Config, Bytes: n, Origin: p.self.ID,
		Holders: []id.Node{p.self.ID}, Labels: map[string]string{"for": w.Key}})
	if err != nil {
		return fmt.Errorf("add pack list: %w", err)
	}
	w.Inputs = []ring.Input{{Role: kit.RolePackList, Digest: d}}
	return nil
}
