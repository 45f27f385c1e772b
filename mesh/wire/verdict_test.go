package wire

import (
	"context"
	"crypto/tls"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// refuser is a machine of the ring that greets everybody with one refusal, whatever is true.
func (w *world) refuser(m *member, ip string, reason *Error) {
	w.t.Helper()
	m.host, m.addr = w.net.Host(ip), ip+":8770"
	l, err := m.host.Listen(context.Background(), m.addr)
	must(w.t, err)
	w.stops = append(w.stops, func() { _ = l.Close() })
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			c := tls.Server(raw, &tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: []string{RPC}, ClientAuth: tls.RequireAnyClientCert,
				Certificates: []tls.Certificate{{Certificate: [][]byte{m.cert.Raw}, PrivateKey: m.key}},
			})
			var hello greeting
			_ = ReadFrame(c, maxGreeting, &hello)
			_ = WriteFrame(c, greeting{Boot: id.NewBoot(), Started: 1, Refused: reason})
			_ = c.Close()
		}
	}()
}

// TestOnlyCoreNodesPassVerdicts: a rented machine that is dialled can answer what it likes; that this node is revoked or a
// double, upon which an agent ends, is taken from core nodes only.
func TestOnlyCoreNodesPassVerdicts(t *testing.T) {
	for _, c := range []struct {
		class id.Class
		code  Code
		told  bool
	}{
		{id.Edge, CodeDuplicate, false},
		{id.Edge, CodeRevoked, false},
		{id.Edge, CodeUnknownNode, true}, // nobody acts on it
		{id.Core, CodeDuplicate, true},
		{id.Core, CodeRevoked, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			defer w.stop()
			caller := w.serve(w.certify(id.Core, nil), "10.0.0.1", w.roster, Limits{})
			var told []Code
			caller.end.cfg.Refused = func(_ id.Node, reason *Error) { told = append(told, reason.Code) }
			liar := w.certify(c.class, nil)
			w.refuser(liar, "10.0.0.2", Errorf(c.code, "go away"))
			if err := caller.reach(liar, RPC); CodeOf(err) != c.code {
				t.Errorf("%s says %s: the dial gave %v", c.class, c.code, err)
			}
			if slices.Contains(told, c.code) != c.told {
				t.Errorf("%s says %s: told %q, want it told: %v", c.class, c.code, told, c.told)
			}
		})
	}
}

// TestTwinProvesItself: another agent of this node is found by its key and its boot, and by nothing less.
func TestTwinProvesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		own := w.serve(w.certify(id.Core, nil), "10.0.0.1", w.roster, Limits{})
		twin := w.serve(&member{node: own.node, key: own.key, cert: own.cert}, "10.0.0.2", w.roster, Limits{})
		other := w.serve(w.certify(id.Edge, nil), "10.0.0.3", w.roster, Limits{})
		w.refuser(w.certify(id.Edge, nil), "10.0.0.4", Errorf(CodeDuplicate, "you are a double"))
		boot, err := own.end.Twin(t.Context(), twin.addr)
		if err != nil || boot != twin.end.cfg.Boot {
			t.Errorf("the twin: %q, %v, want %q", boot, err, twin.end.cfg.Boot)
		}
		if boot, err := own.end.Twin(t.Context(), own.addr); err != nil || boot != "" {
			t.Errorf("itself, by a detour: %q, %v", boot, err)
		}
		for _, at := range []string{other.addr, "10.0.0.4:8770", "10.0.0.9:8770"} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if boot, err := own.end.Twin(ctx, at); err == nil || boot != "" {
				t.Errorf("%s passed for this node: boot %q", at, boot)
			}
			cancel()
		}
	})
}
