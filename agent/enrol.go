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

// Enrolment is how a machine gets into a ring.
type Enrolment struct {
	Config config.Config
	Seeds  []string
	Token  identity.Secret
	Class  id.Class // "" takes what the token gives
	// Network carries the connection; nil means TCP. Tests put a network in memory here.
	Network mesh.Network
}

// Enrol buys this machine a place in a ring with a join token and writes it to the data dir. It starts nothing. A refusal
// leaves nothing behind; an answer that was lost can be asked for again with the same data dir and token.
func Enrol(ctx context.Context, e Enrolment) error {
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
	// First what may fail for lack of space, then what costs a use of the token.
	if err := d.reserveBallast(); err != nil {
		b.undo(true)
		return err
	}
	var advertise []string
	if a := advertised(e.Config); a != "" {
		advertise = []string{a}
	}
	got, err := mesh.Enrol(ctx, mesh.EnrolOptions{
		DataDir: d.root, Token: token, Seeds: e.Seeds, Name: e.Config.NodeName, Class: e.Class, Advertise: advertise, Boot: id.NewBoot(),
		Network: e.Network,
	})
	if err != nil {
		b.undo(true)
		return meshError(err)
	}
	if err := ensureAPIToken(d.path("api.token")); err != nil {
		return err
	}
	var first rosterFile
	if err := json.Unmarshal(got.State, &first); err == nil && len(first.Members) > 0 {
		if err := writeJSONFile(d.path("roster.json"), first); err != nil {
			return err
		}
	}
	c := e.Config
	c.Class, c.NodeName, c.Join = got.Class, got.Name, e.Seeds
	if err := writeConfigFile(d, c); err != nil {
		return err
	}
	return d.writeNode(nodeFile{ID: got.Node, Name: got.Name, Ring: got.RingName, RingID: got.Ring, Class: got.Class})
}

// enroller admits newcomers: the state machine counts the token, this only carries question and answer.
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
	if r.Class == "" {
		st, err := e.leader.Read(ctx)
		if err != nil {
			return mesh.EnrolGrant{}, enrolError(err)
		}
		t, ok := st.Token(r.TokenID)
		if !ok {
			return mesh.EnrolGrant{}, mesh.Errorf(mesh.CodeTokenWrong, "this ring has no such token")
		}
		r.Class = t.Class
	}
	m := ring.Member{
		ID: r.Node, Name: r.Name, Class: r.Class, KeyHash: string(r.Key), Addresses: r.Addresses, Enrolled: e.now().UTC(),
	}
	res, err := e.leader.Propose(ctx, state.Command{Kind: state.KindEnrol, At: e.now().UTC(), By: e.self, Body: state.Enrol{
		TokenID: r.TokenID, SecretHash: string(r.SecretHash), Class: r.Class, Member: m,
	}})
	if err != nil {
		return mesh.EnrolGrant{}, enrolError(err)
	}
	granted, err := valueAs[ring.Member](res)
	if err != nil {
		return mesh.EnrolGrant{}, err
	}
	first, err := json.Marshal(e.roster().with(granted))
	if err != nil {
		return mesh.EnrolGrant{}, fmt.Errorf("encode roster: %w", err)
	}
	return mesh.EnrolGrant{Node: granted.ID, Class: granted.Class, Name: granted.Name, State: first}, nil
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
