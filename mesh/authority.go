package mesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
)

// methodAuthorityKey hands the ring's signing key to core nodes, inside mutual TLS.
const methodAuthorityKey = "mesh.authority_key"

// HasAuthorityKey says whether this node holds the ring's signing key. A core node gets it by itself soon after it enrolled,
// and must not vote before.
func (m *Mesh) HasAuthorityKey() bool { return m.credentials.Authority().CanSign() }

func (m *Mesh) answerAuthorityKey(_ context.Context, r *Request) (any, error) {
	entry, ok := m.cfg.Roster.Lookup(r.Peer.Node)
	if !ok || entry.Revoked || entry.Class != id.Core {
		return nil, Errorf(CodeUnauthorised, "the ring's key is for core nodes")
	}
	key, err := m.credentials.Authority().KeyPEM()
	if errors.Is(err, identity.ErrNoKey) {
		return nil, Errorf(CodeUnavailable, "%v", err)
	}
	if err != nil {
		return nil, fmt.Errorf("hand out the ring's key: %w", err)
	}
	m.cfg.Log.Info().Str("peer", string(r.Peer.Node)).Msg("ring's key handed to a core node")
	return []byte(key.Reveal()), nil
}

// ObtainAuthorityKey asks core nodes for the ring's signing key and keeps it. It does nothing on a node that has it, and
// fails with CodeUnauthorised on edge nodes.
func (m *Mesh) ObtainAuthorityKey(ctx context.Context) error {
	if m.HasAuthorityKey() {
		return nil
	}
	if m.Class() != id.Core {
		return Errorf(CodeUnauthorised, "the ring's key is for core nodes")
	}
	var last error = Errorf(CodeUnavailable, "no core node is known")
	for _, node := range m.coreNodes() {
		text, err := m.CallRaw(ctx, node, methodAuthorityKey, nil)
		if err != nil {
			last = err
			continue
		}
		a, err := m.credentials.Authority().WithKey(identity.NewSecret(string(text)))
		if err != nil {
			last = err
			continue
		}
		if err := m.store.SaveAuthority(a); err != nil {
			return fmt.Errorf("keep the ring's key: %w", err)
		}
		return m.credentials.SetAuthority(a) //nolint:wrapcheck // credentials have said what they did
	}
	return fmt.Errorf("obtain the ring's key: %w", last)
}

// obtainAuthorityKey asks until it has the key.
func (m *Mesh) obtainAuthorityKey(ctx context.Context) {
	if m.Class() != id.Core {
		return
	}
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		err := m.ObtainAuthorityKey(ctx)
		if err == nil {
			return
		}
		m.cfg.Log.Debug().Err(err).Msg("no signing key yet")
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)): //nolint:gosec // jitter
		}
	}
}

func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Errorf(CodeInternal, "%v", err)
}
