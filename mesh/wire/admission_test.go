package wire

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// book of a fixed roster.
type roster struct {
	entries map[id.Node]Entry
	blank   bool
}

func (r *roster) Lookup(n id.Node) (Entry, bool) {
	e, ok := r.entries[n]
	return e, ok && !r.blank
}
func (r *roster) Nodes() []id.Node { return nil }
func (r *roster) Loaded() bool     { return !r.blank }

// world is an authority with a few endpoints on one network in memory.
type world struct {
	t         *testing.T
	net       *meshtest.Network
	authority *identity.Authority
	roster    *roster
	stops     []func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	// An old ring, so that old certificates can be made.
	a, err := identity.NewAuthority(id.NewRing(), "test", time.Now().Add(-60*24*time.Hour))
	must(t, err)
	return &world{t: t, net: meshtest.New(1), authority: a, roster: &roster{entries: make(map[id.Node]Entry)}}
}

type member struct {
	node id.Node
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	end  *Endpoint
	host *meshtest.Host
	addr string
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

// certify makes a machine with a certificate but no endpoint; change alters what is signed.
func (w *world) certify(class id.Class, change func(*identity.SignRequest)) *member {
	w.t.Helper()
	m := &member{node: id.NewNode(), key: newKey(w.t)}
	hash, err := identity.KeyHash(m.key.Public())
	must(w.t, err)
	w.roster.entries[m.node] = Entry{Key: hash, Class: class, Name: "n"}
	r := identity.SignRequest{Node: m.node, Class: class, Name: "n", Public: m.key.Public(), Now: time.Now()}
	if change != nil {
		change(&r)
	}
	m.cert, err = w.authority.Sign(r)
	must(w.t, err)
	return m
}

// serve gives a machine an endpoint that echoes every protocol.
func (w *world) serve(m *member, ip string, ros Roster, limits Limits) *member {
	w.t.Helper()
	c, err := identity.NewCredentials(w.authority, m.key, m.cert)
	must(w.t, err)
	book, err := OpenBook("")
	must(w.t, err)
	m.host, m.addr = w.net.Host(ip), ip+":8770"
	m.end, err = Open(context.Background(), Config{
		Network: m.host, Listen: m.addr, Credentials: c, Roster: ros, Book: book, Boot: id.NewBoot(), Started: time.Now(),
		Limits: limits, Log: zerolog.Nop(),
	})
	must(w.t, err)
	for _, p := range []string{Gossip, Raft, RPC, Blob, Renew} {
		m.end.Handle(p, func(_ context.Context, c *Conn) {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.end.Serve(ctx) }()
	w.stops = append(w.stops, func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return m
}

func (w *world) stop() {
	for _, s := range w.stops {
		s()
	}
}

// reach dials and exchanges a byte.
func (m *member) reach(to *member, protocol string) error {
	m.end.cfg.Book.Add(to.node, to.addr)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := m.end.Dial(ctx, to.node, protocol)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// admission is every way in which certificate, roster and name can disagree (threat T4), and what must come of it.
func admission(t *testing.T, open func(Roster) Roster) (admitted []string) {
	t.Helper()
	cases := []struct {
		name     string
		class    id.Class
		sign     func(*identity.SignRequest)
		change   func(w *world, m *member)
		protocol string
		want     Code // "" is admitted
	}{
		{name: "as it should be", want: ""},
		{name: "edge", class: id.Edge, want: ""},
		{name: "not in the roster", change: func(w *world, m *member) { delete(w.roster.entries, m.node) }, want: CodeUnknownNode},
		{name: "revoked", change: func(w *world, m *member) { w.alter(m, func(e *Entry) { e.Revoked = true }) }, want: CodeRevoked},
		{name: "other key in the roster", change: func(w *world, m *member) {
			w.alter(m, func(e *Entry) { e.Key = id.DigestOf([]byte("x")) })
		}, want: CodeUnauthorised},
		{name: "other class in the roster", class: id.Core, change: func(w *world, m *member) {
			w.alter(m, func(e *Entry) { e.Class = id.Edge })
		}, want: CodeUnauthorised},
		{name: "expired", sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(-25 * time.Hour) }, want: CodeUnauthorised},
		{name: "expired within the tolerance", sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(-24*time.Hour - 4*time.Minute) }, want: ""},
		{name: "expired, to be renewed", sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(-25 * time.Hour) }, protocol: Renew, want: ""},
		{name: "expired, raft between cores", sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(-25 * time.Hour) }, protocol: Raft, want: ""},
		{name: "expired, raft of an edge", class: id.Edge, sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(-25 * time.Hour) }, protocol: Raft, want: CodeUnauthorised},
		{name: "expired for 31 days, to be renewed", sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(-32 * 24 * time.Hour) }, protocol: Renew, want: CodeUnauthorised},
		{name: "expired and revoked, to be renewed", sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(-25 * time.Hour) }, protocol: Renew, change: func(w *world, m *member) {
			w.alter(m, func(e *Entry) { e.Revoked = true })
		}, want: CodeRevoked},
		{name: "expired and unknown, to be renewed", sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(-25 * time.Hour) }, protocol: Renew, change: func(w *world, m *member) {
			delete(w.roster.entries, m.node)
		}, want: CodeUnauthorised},
		{name: "from the future", sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(2 * time.Hour) }, want: CodeUnauthorised},
		{name: "from the future, to be renewed", sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(8 * time.Hour) }, protocol: Renew, want: ""},
		{name: "from the future, raft between cores", sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(8 * time.Hour) }, protocol: Raft, want: CodeUnauthorised},
		{name: "from the far future, to be renewed", sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(32 * 24 * time.Hour) }, protocol: Renew, want: CodeUnauthorised},
		{name: "from the future and unknown, to be renewed", sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(8 * time.Hour) }, protocol: Renew, change: func(w *world, m *member) {
			delete(w.roster.entries, m.node)
		}, want: CodeUnauthorised},
		{name: "clock four minutes ahead", sign: func(r *identity.SignRequest) { r.Now = r.Now.Add(time.Hour + 4*time.Minute) }, want: ""},
	}
	for _, c := range cases {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			defer w.stop()
			// The caller's clock is as right as the server's; its certificate is what is odd.
			server := w.serve(w.certify(id.Core, nil), "10.0.0.1", open(w.roster), Limits{})
			class, protocol := c.class, c.protocol
			if class == "" {
				class = id.Core
			}
			if protocol == "" {
				protocol = RPC
			}
			// The caller sees an untouched roster: it is the server that is tested.
			caller := w.certify(class, c.sign)
			own := &roster{entries: make(map[id.Node]Entry)}
			for n, e := range w.roster.entries {
				own.entries[n] = e
			}
			if c.change != nil {
				c.change(w, caller)
			}
			w.serve(caller, "10.0.0.2", own, Limits{})
			err := caller.reach(server, protocol)
			if err == nil && c.want != "" {
				admitted = append(admitted, c.name)
			}
			if err != nil && c.want == "" || c.want != "" && err != nil && CodeOf(err) != c.want {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
		})
	}
	return admitted
}

func (w *world) alter(m *member, f func(*Entry)) {
	e := w.roster.entries[m.node]
	f(&e)
	w.roster.entries[m.node] = e
}

func TestAdmission(t *testing.T) {
	if in := admission(t, func(r Roster) Roster { return r }); len(in) > 0 {
		t.Errorf("admitted: %q", in)
	}
}

// gullible is a roster that confirms whatever a certificate says: admission by certificate alone.
type gullible struct{ Roster }

func (g gullible) Lookup(n id.Node) (Entry, bool) { return Entry{}, false }
func (g gullible) Loaded() bool                   { return false }

// TestAdmissionNoticesAMissingRoster keeps the test honest: without the roster on the server's side, and with the rule for
// the dialling side applied to it, the revoked and the unknown get in.
func TestAdmissionNoticesAMissingRoster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m := w.certify(id.Edge, nil)
		own := w.certify(id.Core, nil)
		creds, err := identity.NewCredentials(w.authority, own.key, own.cert)
		must(t, err)
		w.alter(m, func(e *Entry) { e.Revoked = true })
		s, err := identity.ReadSubject(m.cert)
		must(t, err)
		g := &gate{credentials: creds, roster: w.roster, revoked: func(id.Node) bool { return false }, unknown: func(id.Node) {}}
		if err := g.admit(s, true); !IsCode(err, CodeRevoked) {
			t.Errorf("as built: %v", err)
		}
		broken := *g
		broken.roster = gullible{w.roster}
		if err := broken.admit(s, true); err != nil {
			t.Errorf("the broken variant refuses, so the check above proves nothing: %v", err)
		}
		if err := broken.admit(s, false); !IsCode(err, CodeUnknownNode) {
			t.Errorf("without a roster nobody may come in: %v", err)
		}
	})
}

// TestForeignCertificates presents certificates that the ring's authority never signed, or signed for something else.
func TestForeignCertificates(t *testing.T) {
	w := newWorld(t)
	m := w.certify(id.Core, nil)
	other, err := identity.NewAuthority(w.authority.Ring(), "pretender", time.Now())
	must(t, err)
	forged, err := other.Sign(identity.SignRequest{Node: m.node, Class: id.Core, Name: "n", Public: m.key.Public(), Now: time.Now()})
	must(t, err)
	self := selfSigned(t, m.key, "ring://"+string(w.authority.Ring())+"/core/"+string(m.node))
	two := selfSigned(t, m.key, "ring://a/core/"+string(m.node), "ring://b/core/"+string(m.node))
	for name, cert := range map[string]*x509.Certificate{"other authority": forged, "self-signed": self, "two identities": two} {
		if _, err := w.authority.Verify(cert, time.Now(), true); !errors.Is(err, identity.ErrForeign) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, uri := range []string{
		"ring://r/root/0123456789abcdef", "ring://r/core/0123456789ABCDEF", "ring://r/core/0123456789abcdef/x", "ring://r/core",
		"http://r/core/0123456789abcdef", "ring://u@r/core/0123456789abcdef", "ring://r/core/0123456789abcdef?x=1",
	} {
		if s, err := identity.ReadSubject(selfSigned(t, m.key, uri)); err == nil {
			t.Errorf("%s was read as %+v", uri, s)
		}
	}
}

func selfSigned(t *testing.T, key *ecdsa.PrivateKey, uris ...string) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	for _, text := range uris {
		u, err := url.Parse(text)
		must(t, err)
		template.URIs = append(template.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

// TestWrongNodeAnswers is a machine of the ring at the address of another.
func TestWrongNodeAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		a := w.serve(w.certify(id.Core, nil), "10.0.0.1", w.roster, Limits{})
		b := w.serve(w.certify(id.Core, nil), "10.0.0.2", w.roster, Limits{})
		c := w.certify(id.Core, nil)
		c.addr = b.addr
		if err := a.reach(c, RPC); !IsCode(err, CodeUnauthorised) {
			t.Errorf("dialling %s at the address of %s: %v", c.node, b.node, err)
		}
		// A better address behind the wrong one is still found.
		w.serve(c, "10.0.0.3", w.roster, Limits{})
		must(t, a.reach(c, RPC))
	})
}

func TestNewcomerWithoutRoster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		core := w.serve(w.certify(id.Core, nil), "10.0.0.1", w.roster, Limits{})
		blank := &roster{blank: true}
		fresh := w.serve(w.certify(id.Edge, nil), "10.0.0.2", blank, Limits{})
		must(t, fresh.reach(core, RPC))
		if err := core.reach(fresh, RPC); !IsCode(err, CodeUnknownNode) {
			t.Errorf("a node without a roster took somebody in: %v", err)
		}
	})
}

func TestWithoutClientCertificateOnlyPeoplesProtocols(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		server := w.serve(w.certify(id.Core, nil), "10.0.0.1", w.roster, Limits{})
		stranger := w.net.Host("10.0.0.9")
		for _, protocols := range [][]string{{RPC}, {Gossip}, {Raft}, {Blob}, {Renew}, {"ring-relay/1"}, {"h2", RPC}, {Enrol, RPC}} {
			if err := handshake(stranger, server.addr, &tls.Config{NextProtos: protocols, InsecureSkipVerify: true}); err == nil {
				t.Errorf("%q without a certificate was taken", protocols)
			}
		}
		if err := handshake(stranger, server.addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
			t.Error("TLS 1.2 was taken")
		}
		go func() {
			for range 2 {
				c, err := server.end.TLSHTTP().Accept()
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = c.Write([]byte("x"))
				_ = c.Close()
			}
		}()
		for _, protocols := range [][]string{nil, {"h2", "http/1.1"}} {
			must(t, handshake(stranger, server.addr, &tls.Config{NextProtos: protocols, InsecureSkipVerify: true}))
		}
	})
}

// handshake connects and waits for a byte: in TLS 1.3 a client learns only then that it was refused.
func handshake(from *meshtest.Host, addr string, cfg *tls.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	raw, err := from.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(raw, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

var _ net.Listener = (*queue)(nil)
