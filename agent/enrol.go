package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/identity"
)

// Enrolled says whether a data dir belongs to a ring.
func Enrolled(dataDir string) bool { return used(dataDir) }

// Granted says whether an enrolment has bought this machine its place and was interrupted before the data dir was whole.
// Enrol needs no token then.
func Granted(dataDir string) bool {
	_, _, ok, err := pending(dataDir)
	return ok && err == nil
}

// pending is what Granted speaks of, and the hash of the ring's authority.
func pending(dataDir string) (mesh.Enrolled, id.Digest, bool, error) {
	if used(dataDir) {
		return mesh.Enrolled{}, "", false, nil
	}
	return mesh.Granted(dataDir) //nolint:wrapcheck // the mesh has said what it did
}

// Enrolment is how a machine gets into a ring.
type Enrolment struct {
	Config config.Config
	Seeds  []string
	Token  identity.Secret // may be empty where the data dir is Granted
	Class  id.Class        // "" takes what the token gives
	// Waits is told once why an enrolment takes longer. May be nil.
	Waits func(why string)
	// Network carries the connection; nil means TCP. Tests put a network in memory here.
	Network mesh.Network
}

// Enrol buys this machine a place in a ring with a join token and writes it to the data dir. It starts nothing. A refusal
// leaves nothing behind; an answer that was lost can be asked for again with the same data dir and token. From the moment
// that the answer is on disk, whatever is interrupted is finished from there, without asking anybody.
func Enrol(ctx context.Context, e Enrolment) error {
	got, authority, granted, err := pending(e.Config.DataDir)
	if err != nil {
		return err
	}
	if granted {
		return e.resume(got, authority)
	}
	if !used(e.Config.DataDir) && hasRun(e.Config.DataDir) {
		return headless(e.Config.DataDir)
	}
	if mesh.Founding(e.Config.DataDir) && !used(e.Config.DataDir) {
		return api.Errorf(api.CodeRefused, "in data dir %s a new ring was begun", e.Config.DataDir).
			WithHint("finish it with: ringagent init; to join another ring name an empty folder with --data-dir")
	}
	token, err := identity.ParseToken(e.Token.Reveal())
	if err != nil {
		return api.Errorf(api.CodeUnauthorised, "%v", err).WithHint("a token looks like ra1.<ca hash>.<id>.<secret>; make one with: ringagent token create")
	}
	b, err := lookBefore(e.Config.DataDir)
	if err != nil {
		return err
	}
	d, err := openDataDir(e.Config.DataDir)
	if err != nil {
		return err
	}
	defer d.close()
	// First what may fail for lack of space or of a folder, then what costs a use of the token.
	_, err = hasAPIToken(e.Config)
	if err == nil {
		err = d.reserveBallast()
	}
	if err != nil {
		b.undo(true)
		return err
	}
	var advertise []string
	if a := advertised(e.Config); a != "" {
		advertise = []string{a}
	}
	got, err = e.ask(ctx, mesh.EnrolOptions{
		DataDir: d.root, Token: token, Seeds: e.Seeds, Name: e.Config.NodeName, Class: e.Class, Advertise: advertise, Boot: id.NewBoot(),
		Network: e.Network,
		Keep: func(state json.RawMessage) error {
			var first welcome
			if err := json.Unmarshal(state, &first); err != nil || len(first.Members) == 0 {
				return nil //nolint:nilerr // the seed sent no roster that this build understands
			}
			return first.keep(d)
		},
	})
	if err != nil {
		b.undo(true)
		return meshError(err)
	}
	return e.finish(d, got)
}

const (
	nameWait  = 30 * time.Second // for the death of the machine that bore the name to be noticed
	nameRetry = 2 * time.Second

	heldBy = "held_by" // detail of a refusal: the node that bears the name
)

// ask asks the ring, for a while again and again where only the name is in the way: a machine that was wiped and comes back
// under its old name is there before the ring has noticed that it was gone.
func (e Enrolment) ask(ctx context.Context, o mesh.EnrolOptions) (mesh.Enrolled, error) {
	ends := time.Now().Add(nameWait)
	for told := false; ; {
		got, err := mesh.Enrol(ctx, o)
		var refused *mesh.Error
		if !errors.As(err, &refused) || refused.Detail[heldBy] == "" {
			return got, err //nolint:wrapcheck // the caller makes the contract's error of it
		}
		if !told && e.Waits != nil {
			e.Waits(refused.Message)
		}
		told = true
		if time.Now().Add(nameRetry).After(ends) || !pause(ctx, nameRetry) {
			return got, err //nolint:wrapcheck // as above
		}
	}
}

// resume finishes what an earlier Enrol was granted. A token of another ring, or for another class, means that somebody
// wants something else here.
func (e Enrolment) resume(got mesh.Enrolled, authority id.Digest) error {
	if e.Token.Reveal() != "" {
		token, err := identity.ParseToken(e.Token.Reveal())
		if err != nil {
			return api.Errorf(api.CodeUnauthorised, "%v", err)
		}
		if token.CA != authority {
			return api.Errorf(api.CodeRefused, "data dir %s has a place in ring %s already, and the token is another ring's", e.Config.DataDir, got.RingName).
				WithHint("name an empty folder with --data-dir")
		}
	}
	if e.Class != "" && e.Class != got.Class {
		return api.Errorf(api.CodeRefused, "this machine was taken in as class %s, not %s", got.Class, e.Class)
	}
	d, err := openDataDir(e.Config.DataDir)
	if err != nil {
		return err
	}
	defer d.close()
	return e.finish(d, got)
}

// finish makes the data dir whole around a granted identity. It may be interrupted anywhere and done again.
func (e Enrolment) finish(d *dataDir, got mesh.Enrolled) error {
	if err := ensureAPIToken(e.Config); err != nil {
		return err
	}
	c := e.Config
	c.Class, c.NodeName = got.Class, got.Name
	if len(e.Seeds) > 0 {
		c.Join = e.Seeds
	}
	if err := writeConfigFile(d, c); err != nil {
		return err
	}
	// node.json comes last: a folder with it is whole.
	return d.writeNode(nodeFile{ID: got.Node, Name: got.Name, Ring: got.RingName, RingID: got.Ring, Class: got.Class})
}

// welcome is what a newcomer has to know of the ring before it has heard a coordinator: whom to admit, and at what pace to
// live.
type welcome struct {
	rosterFile
	Timing ring.Timing `json:"timing,omitempty"` // builds before this field name none
}

// keep writes it where a start looks for it.
func (w welcome) keep(d *dataDir) error {
	if w.Timing.Known() {
		if err := identity.WriteFile(d.path("timing"), []byte(w.Timing)); err != nil {
			return fmt.Errorf("keep timing: %w", err)
		}
	}
	return writeJSONFile(d.path("roster.json"), w.rosterFile)
}

// enroller admits newcomers: the state machine counts the token, this only carries question and answer. Whoever asks is a
// stranger until then, so that the question is looked at by the newest state first: only what will be granted for the first
// time costs an entry in Raft's log.
type enroller struct {
	self   id.Node
	now    func() time.Time
	leader interface {
		proposer
		Read(ctx context.Context) (*state.State, error)
	}
	roster func() rosterFile
}

// Enrol implements mesh.Enroller.
func (e enroller) Enrol(ctx context.Context, r mesh.EnrolRequest) (mesh.EnrolGrant, error) {
	st, err := e.leader.Read(ctx)
	if err != nil {
		return mesh.EnrolGrant{}, enrolError(err)
	}
	if r.Class == "" {
		t, ok := st.Token(r.TokenID)
		if !ok {
			return mesh.EnrolGrant{}, mesh.Errorf(mesh.CodeTokenWrong, "this ring has no such token")
		}
		r.Class = t.Class
	}
	m := ring.Member{
		ID: r.Node, Name: r.Name, Class: r.Class, KeyHash: string(r.Key), Addresses: r.Addresses, Enrolled: e.now().UTC(),
	}
	body := state.Enrol{TokenID: r.TokenID, SecretHash: string(r.SecretHash), Class: r.Class, Member: m}
	granted, err := e.admit(ctx, st, body)
	if err != nil {
		return mesh.EnrolGrant{}, holder(st, body, enrolError(err))
	}
	settings, _ := st.Settings()
	first, err := json.Marshal(welcome{rosterFile: e.roster().with(granted), Timing: settings.Timing})
	if err != nil {
		return mesh.EnrolGrant{}, fmt.Errorf("encode roster: %w", err)
	}
	return mesh.EnrolGrant{Node: granted.ID, Class: granted.Class, Name: granted.Name, State: first}, nil
}

func (e enroller) admit(ctx context.Context, st *state.State, body state.Enrol) (ring.Member, error) {
	now := e.now().UTC()
	had, verdict := st.TryEnrol(body, now)
	if verdict.Code != "" {
		return ring.Member{}, &leader.Refused{Code: string(verdict.Code), Message: verdict.Message}
	}
	if had != nil {
		return *had, nil
	}
	res, err := e.leader.Propose(ctx, state.Command{Kind: state.KindEnrol, At: now, By: e.self, Body: body})
	if err != nil {
		return ring.Member{}, err
	}
	return valueAs[ring.Member](res)
}

// holder names the node that bears the name, where that is what a refusal is about.
func holder(st *state.State, b state.Enrol, err error) error {
	var refused *mesh.Error
	have, held := st.MemberByName(b.Member.Name)
	t, known := st.Token(b.TokenID)
	if !held || have.ID == b.Member.ID || !known || t.Class != b.Class || !errors.As(err, &refused) || refused.Code != mesh.CodeNameTaken {
		return err
	}
	return refused.WithDetail(heldBy, string(have.ID))
}

// enrolError keeps what the machine said, under a code that the newcomer's exit code is made of.
func enrolError(err error) error {
	var refused *leader.Refused
	if errors.As(err, &refused) {
		switch state.Code(refused.Code) {
		case state.CodeUnauth:
			return mesh.Errorf(mesh.CodeTokenWrong, "%s", refused.Message)
		case state.CodeRefused, state.CodeConflict:
			return mesh.Errorf(mesh.CodeNameTaken, "%s", refused.Message)
		case state.CodeInvalid:
			return mesh.Errorf(mesh.CodeInvalid, "%s", refused.Message)
		}
	}
	if errors.Is(err, leader.ErrNoCoordinator) {
		return mesh.Errorf(mesh.CodeNoQuorum, "the ring has no coordinator now").WithHint("try again in a few seconds")
	}
	return err
}
