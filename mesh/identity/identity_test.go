package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/internal/id"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSecretIsPrintedNowhere(t *testing.T) {
	t.Parallel()
	const text = "hunter2hunter2"
	s := NewSecret(text)
	type holder struct {
		S  Secret
		P  *Secret
		In struct{ S Secret }
	}
	h := holder{S: s, P: &s}
	h.In.S = s
	token := NewToken(id.DigestOf(nil))
	token.Secret = s
	var all strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&all, verb+verb+verb+"\n", s, h, token)
	}
	for _, v := range []any{s, h, token, map[string]any{"a": s}, []Secret{s}} {
		b, err := json.Marshal(v)
		must(t, err)
		all.Write(b)
	}
	for _, form := range []string{text, fmt.Sprintf("%x", text), fmt.Sprintf("%X", text)} {
		if strings.Contains(all.String(), form) {
			t.Errorf("the secret was printed:\n%s", all.String())
		}
	}
	if !strings.Contains(all.String(), "[redacted]") {
		t.Error("nothing says that something was left out")
	}
	if s.Reveal() != text {
		t.Error("the secret is lost")
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		token := NewToken(id.DigestOf(rapid.SliceOf(rapid.Byte()).Draw(t, "ca")))
		text := token.Encode().Reveal()
		got, err := ParseToken(" " + text + "\n")
		if err != nil || got != token {
			t.Fatalf("%s: %v", text, err)
		}
		if got.SecretHash() != HashSecret(token.ID, token.Secret) {
			t.Fatal("hashes differ")
		}
		// A token that was cut anywhere is refused, and the refusal does not repeat it.
		cut := rapid.IntRange(0, len(text)-1).Draw(t, "cut")
		if _, err := ParseToken(text[:cut]); !errors.Is(err, ErrBadToken) || strings.Contains(err.Error(), token.Secret.Reveal()) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	})
	a, b := NewToken(id.DigestOf(nil)), NewToken(id.DigestOf(nil))
	if a.ID == b.ID || a.Secret == b.Secret || a.SecretHash() == b.SecretHash() {
		t.Error("two tokens are alike")
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(NewToken(id.DigestOf(nil)).Encode().Reveal())
	f.Add("ra1...")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err == nil && token.Encode().Reveal() != strings.TrimSpace(text) {
			t.Errorf("%q is another spelling of a token", text)
		}
	})
}

func TestCertificateTimes(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	a, err := NewAuthority(id.NewRing(), "r", now)
	must(t, err)
	store, err := OpenStore(t.TempDir())
	must(t, err)
	key, err := store.NodeKey()
	must(t, err)
	for _, c := range []struct{ life, back, tolerance, renew time.Duration }{
		{24 * time.Hour, time.Hour, 5 * time.Minute, 11*time.Hour + 30*time.Minute},
		{20 * time.Second, 5 * time.Second, 5 * time.Second, 7500 * time.Millisecond},
		{4 * time.Minute, time.Minute, time.Minute, 90 * time.Second},
	} {
		cert, err := a.Sign(SignRequest{Node: id.NewNode(), Class: id.Edge, Name: "n", Hosts: []string{"10.0.0.1", "h.example", "bad host"}, Public: key.Public(), Life: c.life, Now: now})
		must(t, err)
		if got := now.Sub(cert.NotBefore); got != c.back {
			t.Errorf("life %s: begins %s back, want %s", c.life, got, c.back)
		}
		if got := cert.NotAfter.Sub(now); got != c.life {
			t.Errorf("life %s: ends in %s", c.life, got)
		}
		if got := Tolerance(cert); got != c.tolerance {
			t.Errorf("life %s: tolerance %s, want %s", c.life, got, c.tolerance)
		}
		if got := RenewAt(cert).Sub(now); got != c.renew {
			t.Errorf("life %s: renewed after %s, want %s", c.life, got, c.renew)
		}
		if len(cert.DNSNames) != 2 || len(cert.IPAddresses) != 1 {
			t.Errorf("hosts %v %v", cert.DNSNames, cert.IPAddresses)
		}
		for _, at := range []struct {
			when     time.Duration
			untimely bool
			want     error
		}{
			{-c.back - c.tolerance, false, nil},
			{-c.back - c.tolerance - time.Second, false, ErrNotYetValid},
			{c.life + c.tolerance, false, nil},
			{c.life + c.tolerance + time.Second, false, ErrExpired},
			{c.life + ExpiredGrace, true, nil},
			{c.life + ExpiredGrace + time.Second, true, ErrExpired},
			{-c.back - ExpiredGrace, true, nil},
			{-c.back - ExpiredGrace - time.Second, true, ErrNotYetValid},
		} {
			if _, err := a.Verify(cert, now.Add(at.when), at.untimely); !errors.Is(err, at.want) {
				t.Errorf("life %s at %s: %v, want %v", c.life, at.when, err, at.want)
			}
		}
	}
}

func TestStoreKeepsItsFilesToItself(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, err := OpenStore(dir)
	must(t, err)
	if store.Used() {
		t.Error("an empty directory looks used")
	}
	if _, err := LoadCredentials(store); !errors.Is(err, ErrAbsent) {
		t.Errorf("credentials of nobody: %v", err)
	}
	a, err := NewAuthority(id.NewRing(), "r", time.Now())
	must(t, err)
	key, err := store.NodeKey()
	must(t, err)
	node, err := store.NodeID()
	must(t, err)
	cert, err := a.Sign(SignRequest{Node: node, Class: id.Core, Name: "n", Public: key.Public(), Now: time.Now()})
	must(t, err)
	must(t, store.SaveCertificate(cert))
	must(t, store.SaveAuthority(a))
	tls := filepath.Join(dir, "tls")
	must(t, os.Chmod(filepath.Join(tls, "ca.key"), 0o644))
	must(t, os.Chmod(tls, 0o755))
	// Opening it again tightens what somebody has loosened.
	store, err = OpenStore(dir)
	must(t, err)
	info, err := os.Stat(tls)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v", info.Mode())
	}
	entries, err := os.ReadDir(tls)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	c, err := LoadCredentials(store)
	must(t, err)
	if c.Subject().Node != node || !c.Authority().CanSign() || c.Authority().Ring() != a.Ring() || c.Authority().Hash() != a.Hash() {
		t.Errorf("loaded %+v", c.Subject())
	}
	again, err := store.NodeKey()
	must(t, err)
	if !again.Equal(key) {
		t.Error("the key has changed")
	}
}

func TestCredentialsTakeOnlyTheirOwn(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a, err := NewAuthority(id.NewRing(), "r", now)
	must(t, err)
	other, err := NewAuthority(a.Ring(), "r", now)
	must(t, err)
	s1, err := OpenStore(t.TempDir())
	must(t, err)
	s2, err := OpenStore(t.TempDir())
	must(t, err)
	k1, err := s1.NodeKey()
	must(t, err)
	k2, err := s2.NodeKey()
	must(t, err)
	node := id.NewNode()
	sign := func(by *Authority, node id.Node, class id.Class, key any) SignRequest {
		return SignRequest{Node: node, Class: class, Name: "n", Public: key, Now: now}
	}
	cert, err := a.Sign(sign(a, node, id.Edge, k1.Public()))
	must(t, err)
	c, err := NewCredentials(a, k1, cert)
	must(t, err)
	for name, r := range map[string]struct {
		by  *Authority
		req SignRequest
	}{
		"other key":       {a, sign(a, node, id.Edge, k2.Public())},
		"other node":      {a, sign(a, id.NewNode(), id.Edge, k1.Public())},
		"other class":     {a, sign(a, node, id.Core, k1.Public())},
		"other authority": {other, sign(other, node, id.Edge, k1.Public())},
	} {
		bad, err := r.by.Sign(r.req)
		must(t, err)
		if err := c.Replace(bad); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", name, err)
		}
	}
	keyPEM, err := other.KeyPEM()
	must(t, err)
	if _, err := a.WithKey(keyPEM); !errors.Is(err, ErrForeign) {
		t.Errorf("another authority's key: %v", err)
	}
	if err := c.SetAuthority(other); !errors.Is(err, ErrForeign) {
		t.Errorf("another authority: %v", err)
	}
	public, err := ReadAuthority(a.DER())
	must(t, err)
	if _, err := public.Sign(sign(a, node, id.Edge, k1.Public())); !errors.Is(err, ErrNoKey) {
		t.Errorf("signing without a key: %v", err)
	}
}

// TestReplacedFilesAreWholeOrOld breaks off a replacement: a directory in the way makes the rename fail.
func TestReplacedFilesAreWholeOrOld(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	must(t, WriteFile(path, []byte("old")))
	must(t, WriteFile(path, []byte("new")))
	b, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(b, []byte("new")) {
		t.Errorf("holds %q", b)
	}
	must(t, os.MkdirAll(filepath.Join(dir, "d", "x"), 0o700))
	if WriteFile(filepath.Join(dir, "d"), []byte("x")) == nil {
		t.Error("a directory was replaced")
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}
