package agent_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// A ring of three voters with certificates of 20 s lives through five renewals of each, while all nodes publish, call each other and
// open new connections: no call is refused, no event is lost, nobody runs on a certificate that has ended, and nothing between the
// voters is refused for so long that one of them stands for election.
func TestFiveRenewalsUnderTraffic(t *testing.T) {
	t.Parallel()
	const life, renewals = 20 * time.Second, 5
	var on atomic.Bool
	var calls, fetched atomic.Int64
	refused := &book{}
	traffic := everywhere("TEST_TRAFFIC", func(ctx context.Context, env kit.Env) error {
		for i := 0; ctx.Err() == nil; i++ {
			if on.Load() {
				if err := callEverybody(ctx, env, i, &calls, &fetched); err != nil && ctx.Err() == nil {
					refused.add("%s: %v", env.Self.Name, err)
				}
			}
			pause(ctx, 200*time.Millisecond)
		}
		return nil
	})
	r := agenttest.Start(t, agenttest.Options{Core: 3, Edge: 1, CertLife: life, Specs: base(traffic)})
	r.Node("c1").Restart(false) // the founder's first certificate is one of a day
	r.Settled()
	first := reign(t, r)
	on.Store(true)

	// What was dialled in all as a certificate was first seen, by node and certificate; -1 once something was dialled under it. Only
	// such certificates count: the first, and one that is seen late, may end before anybody needs a new connection.
	seen := map[string]map[time.Time]int{}
	for _, n := range r.Nodes() {
		seen[n.Name] = map[time.Time]int{}
	}
	notes := 0
	r.UntilIn(4*agenttest.Patience, "renewals under traffic", func(ctx context.Context) error {
		for _, n := range r.Nodes() {
			notes++
			if _, err := note(ctx, n, fmt.Sprintf("%s-%d", n.Name, notes), true); err != nil {
				t.Fatalf("event %d at %s: %v", notes, n.Name, err)
			}
			until, now := expiry(t, n), r.Net.Dials()
			if time.Now().After(until) {
				t.Fatalf("%s runs on a certificate that ended at %s", n.Name, until)
			}
			if then, ok := seen[n.Name][until]; !ok {
				seen[n.Name][until] = now
			} else if now > then {
				seen[n.Name][until] = -1
			}
		}
		if now := reign(t, r); now != first {
			t.Fatalf("coordinator %+v, was %+v", now, first)
		}
		if list := refused.list(); len(list) > 0 {
			t.Fatalf("%d calls of %d refused: %q", len(list), calls.Load(), list)
		}
		for name, certs := range seen {
			used := 0
			for _, dialled := range certs {
				if dialled < 0 {
					used++
				}
			}
			if used <= renewals {
				return fmt.Errorf("%s: new connections under %d of %d certificates, want %d", name, used, len(certs), renewals+1)
			}
		}
		return nil
	})
	on.Store(false)
	t.Logf("%d events, %d calls, %d artifacts over new connections", notes, calls.Load(), fetched.Load())
	if fetched.Load() == 0 {
		t.Error("nothing was fetched")
	}
	for _, n := range r.Nodes() {
		r.Until("every event once on "+n.Name, func(ctx context.Context) error {
			ls, err := lines(ctx, n, "OPERATOR_NOTE")
			if err != nil {
				return err
			}
			ids := map[string]bool{}
			for _, l := range ls {
				ids[l.ID] = true
			}
			if len(ids) < len(ls) || len(ls) > notes {
				t.Fatalf("%s has %d events, %d different ones of %d", n.Name, len(ls), len(ids), notes)
			}
			if len(ls) < notes {
				return fmt.Errorf("%d events of %d", len(ls), notes)
			}
			return nil
		})
	}
}

// coordinates is who coordinates whom, in which term.
type coordinates struct {
	node   string
	term   uint64
	voters int
}

func reign(t *testing.T, r *agenttest.Ring) coordinates {
	t.Helper()
	var l api.Leader
	if err := r.Node("c1").Client().Get(t.Context(), "/api/v1/leader", nil, &l); err != nil || l.Coordinator == nil {
		t.Fatalf("leader: %+v, %v", l, err)
	}
	return coordinates{*l.Coordinator, l.Term, len(l.Voters)}
}

// callEverybody calls each other node, and now and then has one fetch an artifact from here, for which it opens a
// connection.
func callEverybody(ctx context.Context, env kit.Env, round int, calls, fetched *atomic.Int64) error {
	var others []id.Node
	for _, m := range env.View.Near().Fleet.Members() {
		if m.ID != env.Self.ID && m.Live() {
			others = append(others, m.ID)
		}
	}
	for _, n := range others {
		calls.Add(1)
		if _, err := env.Orders.Ping(ctx, n); err != nil {
			return fmt.Errorf("ping: %w", err)
		}
	}
	if round%5 > 0 || len(others) == 0 {
		return nil
	}
	path := filepath.Join(env.Dirs.Staging, fmt.Sprintf("%s-%d", env.Self.Name, round))
	if err := os.WriteFile(path, []byte(path), 0o600); err != nil {
		return err
	}
	d, size, err := env.Store.PutFile(ctx, path)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := env.Effects.AddArtifacts(ctx, ring.Artifact{Digest: d, Kind: ring.KindFile, Bytes: size, Created: time.Now(),
		Origin: env.Self.ID, Holders: []id.Node{env.Self.ID}}); err != nil {
		return fmt.Errorf("make known: %w", err)
	}
	calls.Add(2)
	if err := env.Orders.Fetch(ctx, others[round/5%len(others)], d); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	fetched.Add(1)
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// A ring that was off for longer than its certificates live comes back by itself. None of its voters can coordinate alone: they let
// each other in, or renew, before there is a coordinator.
func TestRingComesBackWithExpiredCertificates(t *testing.T) {
	t.Parallel()
	const life = 6 * time.Second
	r := agenttest.Start(t, agenttest.Options{Core: 3, Edge: 1, CertLife: life, Specs: base()})
	r.Node("c1").Restart(false) // the founder's first certificate is one of a day
	r.Settled()
	mustNote(t, r, r.Node("e1"), "before")
	for _, n := range r.Nodes() {
		n.Stop()
	}
	for _, n := range r.Nodes() {
		r.Until(n.Name+"'s certificate to expire", func(context.Context) error {
			if left := time.Until(expiry(t, n)); left > -time.Second {
				return errors.New("not yet")
			}
			return nil
		})
	}
	for _, n := range r.Nodes() {
		n.Start()
	}
	r.Settled()
	mustNote(t, r, r.Node("e1"), "back again")
}

// expiry is the end of the certificate that a node has on disk.
func expiry(t *testing.T, n *agenttest.Node) time.Time {
	t.Helper()
	var last time.Time
	_ = filepath.WalkDir(filepath.Join(n.Dir, "tls"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			if c, err := x509.ParseCertificate(block.Bytes); err == nil && !c.IsCA {
				last = c.NotAfter
			}
		}
		return nil
	})
	if last.IsZero() {
		t.Fatalf("%s has no certificate", n.Name)
	}
	return last
}
