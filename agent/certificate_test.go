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
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/agenttest"
)

// Certificates that live for seconds are renewed under traffic, and a ring that was off for longer than they live comes
// back by itself.
func TestShortLivedCertificates(t *testing.T) {
	t.Parallel()
	const life, renewals = 6 * time.Second, 3
	r := agenttest.Start(t, agenttest.Options{Core: 2, Edge: 1, CertLife: life, Specs: base()})
	r.Node("c1").Restart(false) // the founder's first certificate is one of a day
	r.Settled()
	seen := map[string]map[time.Time]bool{}
	for _, n := range r.Nodes() {
		seen[n.Name] = map[time.Time]bool{}
	}
	i := 0
	r.UntilIn(2*agenttest.Patience, "renewals under traffic", func(ctx context.Context) error {
		i++
		if _, err := note(ctx, r.Node("e1"), fmt.Sprintf("n%d", i), true); err != nil {
			t.Logf("note %d: %v", i, err) // what counts is that the ring is whole in the end
		}
		for _, n := range r.Nodes() {
			seen[n.Name][expiry(t, n)] = true
			if got := len(seen[n.Name]) - 1; got < renewals {
				return fmt.Errorf("%s has renewed %d times, want %d", n.Name, got, renewals)
			}
		}
		return nil
	})
	r.Settled()
	mustNote(t, r, r.Node("e1"), "after the renewals")

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
