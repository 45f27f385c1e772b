package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/ringagent/ringagent/agent/worker"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/connect4"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/rating"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/workload"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
)

// workQueue is the ring's queue as the worker asks it.
type workQueue struct {
	a *Agent
	// once names the request that has no answer yet: asked again under the same name, it gets the same item.
	once string
}

// slotsByName is what the config sets; a zero field is left to measuring.
func slotsByName(s ring.Slots) map[string]int64 {
	out := map[string]int64{}
	for name, n := range map[string]int{"cpu": s.CPU, "gpu": s.GPU, "vram_mib": s.VRAMMiB, "ram_mib": s.RAMMiB, "disk_mib": s.DiskMiB} {
		if n > 0 {
			out[name] = int64(n)
		}
	}
	return out
}

func ringSlots(s workload.Slots) ring.Slots {
	return ring.Slots{CPU: int(s.CPU), GPU: int(s.GPU), VRAMMiB: int(s.VRAMMiB), RAMMiB: int(s.RAMMiB), DiskMiB: int(s.DiskMiB)}
}

// claimLease is how long a claim lives without a heartbeat: short where nodes are meant to be killed for show.
func (q *workQueue) claimLease() time.Duration {
	if s, _ := q.a.leader.View().Settings(); s.Timing == ring.TimingDev {
		return 15 * time.Second
	}
	return time.Minute
}

// Claim implements worker.Queue.
func (q *workQueue) Claim(ctx context.Context, o worker.Offer) (worker.Claim, bool, error) {
	if q.once == "" {
		q.once = hex.EncodeToString(newNonce())
	}
	item, err := q.a.leader.Claim(ctx, leader.ClaimCall{
		Boot: o.Boot, Once: q.once, Free: ringSlots(o.Free), Types: o.Types, Configs: o.Configs, Holds: o.Holds,
		Lease: ring.Duration(q.claimLease()),
	})
	if err != nil {
		return worker.Claim{}, false, err
	}
	q.once = ""
	if item == nil {
		return worker.Claim{}, false, nil
	}
	c := worker.Claim{
		ClaimRef: worker.ClaimRef{WorkID: item.ID, ClaimID: item.Claim.ID}, Type: item.Type, Config: item.Config, Params: item.Params,
		Inputs: map[string]id.Digest{}, Lease: time.Duration(item.Claim.Lease), Attempt: item.Attempts + 1,
	}
	for _, in := range item.Inputs {
		switch {
		case in.Role == kit.RolePack || in.Role == kit.RolePackList:
			c.Packs = append(c.Packs, in.Digest) // a list is expanded where it is merged
		case in.Role == kit.RoleChampion && item.Type == kit.StageTrain:
			c.Inputs[kit.RoleModel] = in.Digest // whom a training starts from
		default:
			c.Inputs[in.Role] = in.Digest
		}
	}
	if seed, ok := c.Params["seed"]; ok {
		// Every attempt plays its own games: the same seed would play the same moves again, and they would count twice.
		c.Params = maps.Clone(c.Params)
		c.Params["seed"] = kit.SeedOf(seed + "/" + c.ClaimID)
	}
	return c, true, nil
}

// Started implements worker.Queue.
func (q *workQueue) Started(ctx context.Context, ref worker.ClaimRef) error {
	_, err := q.a.leader.Started(ctx, state.StartWork{Work: ref.WorkID, Claim: ref.ClaimID})
	return workError(err)
}

// Heartbeat implements worker.Queue.
func (q *workQueue) Heartbeat(ctx context.Context, beats []worker.Beat) ([]worker.Verdict, error) {
	claims := make([]string, len(beats))
	for i, b := range beats {
		claims[i] = b.ClaimID
	}
	gone, err := q.a.leader.Heartbeat(ctx, claims...)
	if err != nil {
		return nil, err
	}
	var out []worker.Verdict
	for _, c := range gone {
		out = append(out, worker.Verdict{ClaimID: c, Reason: "the claim is no longer this node's"})
	}
	return out, nil
}

// Finish implements worker.Queue.
func (q *workQueue) Finish(ctx context.Context, c worker.Claim, o worker.Outcome) error {
	f := state.FinishWork{Work: c.WorkID, Claim: c.ClaimID}
	if o.Result != worker.Done {
		f.Error, f.Permanent = o.Reason, o.Result == worker.Refused
		if o.Detail != "" {
			f.Error += ": " + o.Detail
		}
		_, err := q.a.leader.Finish(ctx, f)
		return workError(err)
	}
	r := &ring.WorkResult{Counters: map[string]int64{}, Seconds: o.Seconds, Node: q.a.node.ID}
	for _, p := range o.Outputs {
		for k, n := range p.Counters {
			r.Counters[k] += n
		}
		if p.Digest == "" {
			continue // games: gathered from the job's folder, pack by pack
		}
		r.Outputs = append(r.Outputs, ring.Output{Role: p.Kind, Kind: ring.Kind(p.Kind), Digest: p.Digest, Bytes: p.Counters["bytes"]})
		art, err := q.made(p, c)
		if err != nil {
			return err
		}
		f.Artifacts = append(f.Artifacts, art)
	}
	q.read(r, c.WorkID)
	f.Result = r
	if _, err := q.a.leader.Finish(ctx, f); err != nil {
		return workError(err)
	}
	for _, art := range f.Artifacts {
		q.a.store.link(art)
	}
	return nil
}

// made is the record of an output. The coordinator goes by the item for what it was made of, and for which config; one of an older
// build goes by this.
func (q *workQueue) made(p worker.Produced, c worker.Claim) (ring.Artifact, error) {
	st, err := os.Stat(q.a.store.blobs.Path(p.Digest))
	if errors.Is(err, fs.ErrNotExist) { // somebody took it away: this run has nothing to show any more
		err = fmt.Errorf("%w: %w", worker.ErrRefused, err)
	}
	if err != nil {
		return ring.Artifact{}, fmt.Errorf("look at output: %w", err)
	}
	return ring.Artifact{
		Digest: p.Digest, Kind: ring.Kind(p.Kind), Config: c.Config, Bytes: st.Size(), Created: time.Now().UTC(), Origin: q.a.node.ID,
		Holders: []id.Node{q.a.node.ID}, Parents: parentsOf(c), Counters: p.Counters, Labels: map[string]string{"work": c.WorkID},
	}, nil
}

// parentsOf are the artifacts that a claim's run was given.
func parentsOf(c worker.Claim) []id.Digest {
	out := slices.Clone(c.Packs)
	for role, d := range c.Inputs {
		if _, measured := c.Inputs[kit.RoleCandidate]; role == kit.RoleModel && measured {
			continue // the candidate is in its place
		}
		out = append(out, d)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// read adds what can be read from the outputs themselves, for the facts that the state machine makes of a result: the
// rating that an evaluation gives its candidate, the samples and the loss of a training.
func (q *workQueue) read(r *ring.WorkResult, workID string) {
	item, _ := q.a.leader.View().Work(workID)
	for _, o := range r.Outputs {
		path := q.a.store.blobs.Path(o.Digest)
		switch o.Kind {
		case ring.KindMatches:
			ms, err := rating.ReadMatches(path)
			if err != nil || len(ms) == 0 {
				continue
			}
			with := pins()
			if champion, ok := q.a.leader.View().Champion(id.Config(ms[0].Config)); ok && string(champion.Digest) != ms[0].A {
				if elo, ok := champion.Values["elo"]; ok {
					with[string(champion.Digest)] = elo
				}
			}
			if x, ok := rating.Fold(ms, with)[ms[0].A]; ok {
				r.Values = map[string]float64{"elo": x.Elo}
			}
		case ring.KindModel:
			if m, err := connect4.LoadModel(path); err == nil {
				r.Values = map[string]float64{"loss": m.Info.Loss}
				r.Counters["samples"] = int64(m.Info.Samples)
				continue
			}
			for _, in := range item.Inputs {
				if a, ok := q.a.leader.View().Artifact(in.Digest); ok && a.Kind == ring.KindDataset {
					r.Counters["samples"] = a.Counters["samples"]
				}
			}
		}
	}
}

// Release implements worker.Queue.
func (q *workQueue) Release(ctx context.Context, ref worker.ClaimRef, reason string) error {
	_, err := q.a.leader.Release(ctx, state.ReleaseWork{Work: ref.WorkID, Claim: ref.ClaimID, Reason: reason})
	return workError(err)
}

func workError(err error) error {
	var refused *leader.Refused
	if errors.As(err, &refused) {
		switch state.Code(refused.Code) {
		case state.CodeConflict, state.CodeNotFound:
			return fmt.Errorf("%w: %s", worker.ErrConflict, refused.Message)
		case state.CodeInvalid, state.CodeRefused:
			return fmt.Errorf("%w: %s", worker.ErrRefused, refused.Message)
		}
	}
	return err
}

// workArtifacts keeps what jobs produced.
type workArtifacts struct{ *artifacts }

// Store implements worker.Artifacts.
func (w workArtifacts) Store(ctx context.Context, path string) (id.Digest, error) {
	d, _, err := w.PutFile(ctx, path)
	return d, err
}

func newNonce() []byte {
	b := make([]byte, 6)
	_, _ = rand.Read(b) // never fails on the platforms we build for
	return b
}

// workload is the ring's workload, parsed; nil while there is none. The text seldom changes, so the parsed form is kept.
func (a *Agent) workload() *workload.Workload {
	s, version := a.leader.View().Settings()
	if s.Workload == "" {
		return nil
	}
	a.parsed.mu.Lock()
	defer a.parsed.mu.Unlock()
	if a.parsed.version == version && a.parsed.w != nil {
		return a.parsed.w
	}
	w, err := workload.ParseStored([]byte(s.Workload), "workload")
	if err != nil {
		a.log.Error().Err(err).Msg("the ring's workload cannot be read")
		return nil
	}
	if _, err := workload.Parse([]byte(s.Workload), "workload"); err != nil {
		a.log.Warn().Err(err).Msg("the ring's workload is used as it is, but would not be taken again")
	}
	a.parsed.version, a.parsed.w = version, w
	return w
}

func (a *Agent) configs() []id.Config {
	s, _ := a.leader.View().Settings()
	return s.Configs
}

// holds names the artifacts here that matter for choosing work: the newest datasets and models. It is asked for with each offer, so that
// it must not look at all that ever were.
func (a *Agent) holds() []id.Digest {
	const wanted, looked = 16, 256
	var out []id.Digest
	s := a.leader.View()
	for _, k := range []ring.Kind{ring.KindModel, ring.KindDataset} {
		here, seen := 0, 0
		for art := range s.Newest(k) {
			if a.store.blobs.Has(art.Digest) {
				out = append(out, art.Digest)
				here++
			}
			if seen++; here == wanted || seen == looked {
				break
			}
		}
	}
	return out
}

// pace is how often work is asked for: on one machine nobody minds, and everybody waits.
func (a *Agent) pace() worker.Pace {
	if a.lastTiming() == ring.TimingDev {
		return worker.Pace{Poll: 300 * time.Millisecond, PollMost: time.Second}
	}
	return worker.Pace{}
}
