package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

func TestTokensThatBuyNothing(t *testing.T) {
	bubble(t, 1, func(t *testing.T, r *ring) {
		other := newRing(t, r.net)
		other.nodes = make([]*node, 100) // addresses apart from r's
		other.nodes[0] = nil
		foreign := other.place("f1")
		f, err := mesh.InitRing(mesh.InitOptions{DataDir: foreign.dir, NodeName: "f1", RingName: "foreign"})
		must(t, err)
		foreign.id = f.Node
		other.state.set(f.Node, f.Entry)
		foreign.start()
		defer foreign.stop()

		seed := r.nodes[0].mesh
		used := r.state.token(seed, id.Edge, 1, time.Hour)
		first := r.place("n2")
		first.enrol(used)
		expired := r.state.token(seed, id.Edge, 1, time.Second)
		pass(2 * time.Second)
		revoked := r.state.token(seed, id.Edge, 1, time.Hour)
		r.state.tokens[revoked.ID].revoked = true
		wrong := r.state.token(seed, id.Edge, 1, time.Hour)
		wrong.Secret = seed.NewToken().Secret
		cases := []struct {
			name  string
			token mesh.Token
			class id.Class
			as    string
			want  mesh.Code
		}{
			{"used", used, "", "x1", mesh.CodeTokenUsed},
			{"wrong secret", wrong, "", "x2", mesh.CodeTokenWrong},
			{"unknown", seed.NewToken(), "", "x3", mesh.CodeTokenWrong},
			{"expired", expired, "", "x4", mesh.CodeTokenExpired},
			{"revoked", revoked, "", "x5", mesh.CodeTokenRevoked},
			{"of another ring", other.state.token(foreign.mesh, id.Edge, 1, time.Hour), "", "x6", mesh.CodeForeignRing},
			{"other class", r.state.token(seed, id.Edge, 1, time.Hour), id.Core, "x7", mesh.CodeTokenClass},
			{"name taken", r.state.token(seed, id.Edge, 1, time.Hour), "", "n1", mesh.CodeNameTaken},
			{"bad name", r.state.token(seed, id.Edge, 1, time.Hour), "", "no/name", mesh.CodeInvalid},
		}
		for _, c := range cases {
			dir := filepath.Join(t.TempDir(), "data")
			before, calls := len(r.state.Nodes()), r.state.calls
			_, err := mesh.Enrol(t.Context(), mesh.EnrolOptions{
				DataDir: dir, Token: c.token, Seeds: []string{r.nodes[0].addr}, Name: c.as, Class: c.class,
				Network: r.net.Host("10.0.7.1"), Boot: id.NewBoot(),
			})
			if !mesh.IsCode(err, c.want) {
				t.Errorf("%s: %v, want code %s", c.name, err, c.want)
			}
			if err != nil && strings.Contains(fmt.Sprintf("%v %+v", err, err), c.token.Secret.Reveal()) {
				t.Errorf("%s: the error tells the secret", c.name)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: something was left behind", c.name)
			}
			if len(r.state.Nodes()) != before {
				t.Errorf("%s: the roster has changed", c.name)
			}
			if c.want == mesh.CodeForeignRing && r.state.calls != calls {
				t.Errorf("%s: the token reached the wrong ring", c.name)
			}
		}
		if _, err := first.tryEnrol(r.state.token(seed, id.Edge, 1, time.Hour)); !mesh.IsCode(err, mesh.CodeRefused) {
			t.Errorf("a used directory gave %v", err)
		}
	})
}

// cutter loses the answer to the first enrolment, after it was granted.
type cutter struct {
	*state
	cut  func()
	once sync.Once
}

func (c *cutter) Enrol(ctx context.Context, r mesh.EnrolRequest) (mesh.EnrolGrant, error) {
	grant, err := c.state.Enrol(ctx, r)
	c.once.Do(c.cut)
	return grant, err
}

func TestLostAnswerIsAskedForAgainBySameKeyOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRing(t, meshtest.New(7))
		defer r.stop()
		c := &cutter{state: r.state}
		r.tweak = func(cfg *mesh.Config) { cfg.Enroller = c }
		seed := r.found()
		token := r.state.token(seed.mesh, id.Edge, 1, 2*time.Minute)
		joiner := r.place("n2")
		c.cut = func() { r.net.Block(seed.host, joiner.host) }
		if _, err := joiner.tryEnrol(token); !mesh.IsCode(err, mesh.CodeUnavailable) {
			t.Fatalf("a lost answer gave %v", err)
		}
		r.net.Heal()
		thief := r.place("n3")
		if _, err := thief.tryEnrol(token); !mesh.IsCode(err, mesh.CodeTokenUsed) {
			t.Errorf("another key with the same token: %v", err)
		}
		// The token may even have expired meanwhile.
		pass(3 * time.Minute)
		joiner.enrol(token)
		if n := len(r.state.Nodes()); n != 2 {
			t.Errorf("%d nodes in the roster, want 2", n)
		}
		joiner.start()
		r.whole(10*time.Second, seed, joiner)
	})
}

// TestStrangersDoNotFillTheLog is a machine that tries tokens as fast as it is let in.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRing(t, meshtest.New(7))
		defer r.stop()
		var told bytes.Buffer
		r.tweak = func(cfg *mesh.Config) { cfg.Log = zerolog.New(&told) }
		seed := r.found()
		token := seed.mesh.NewToken() // which the ring has never heard of
		stranger := r.place("n2")
		for range 200 {
			if _, err := stranger.tryEnrol(token); !mesh.IsCode(err, mesh.CodeTokenWrong) {
				t.Fatal(err)
			}
			pass(60 * time.Millisecond)
		}
		r.stop()
		if n := bytes.Count(told.Bytes(), []byte("enrolment refused")); n == 0 || n > 50 {
			t.Errorf("%d lines about 200 refused newcomers", n)
		}
	})
}

func TestOneUseTokenUnderARace(t *testing.T) {
	bubble(t, 1, func(t *testing.T, r *ring) {
		token := r.state.token(r.nodes[0].mesh, id.Edge, 1, time.Hour)
		results := make(chan error, 50)
		for i := range cap(results) {
			dir := t.TempDir()
			go func() {
				_, err := mesh.Enrol(t.Context(), mesh.EnrolOptions{
					DataDir: dir, Token: token, Seeds: []string{r.nodes[0].addr}, Name: fmt.Sprintf("racer%d", i),
					Network: r.net.Host(fmt.Sprintf("10.0.8.%d", i+1)), Boot: id.NewBoot(),
				})
				results <- err
			}()
		}
		won := 0
		for range cap(results) {
			if err := <-results; err == nil {
				won++
			} else if !mesh.IsCode(err, mesh.CodeTokenUsed) {
				t.Errorf("a racer got %v", err)
			}
		}
		if won != 1 {
			t.Errorf("%d of 50 got in, want 1", won)
		}
	})
}

func TestEdgeNodeTakesNobodyIn(t *testing.T) {
	bubble(t, 1, func(t *testing.T, r *ring) {
		edge := r.join(id.Edge)
		token := r.state.token(r.nodes[0].mesh, id.Core, 1, time.Hour)
		x := r.place("x")
		calls := r.state.calls
		_, err := mesh.Enrol(t.Context(), mesh.EnrolOptions{
			DataDir: x.dir, Token: token, Seeds: []string{edge.addr}, Name: "x", Network: x.network(), Boot: id.NewBoot(),
		})
		if !mesh.IsCode(err, mesh.CodeUnauthorised) || r.state.calls != calls {
			t.Errorf("enrolment at an edge node: %v", err)
		}
		if edge.mesh.HasAuthorityKey() {
			t.Error("an edge node holds the ring's key")
		}
		_, err = edge.mesh.CallRaw(t.Context(), r.nodes[0].id, "mesh.authority_key", nil)
		if !mesh.IsCode(err, mesh.CodeUnauthorised) {
			t.Errorf("an edge node asking for the ring's key: %v", err)
		}
		// The next seed in the list is a core node: the same machine gets in there.
		_, err = mesh.Enrol(t.Context(), mesh.EnrolOptions{
			DataDir: x.dir, Token: token, Seeds: []string{edge.addr, r.nodes[0].addr}, Name: "x", Network: x.network(), Boot: id.NewBoot(),
		})
		must(t, err)
	})
}

func TestCoreNodeGetsTheKeyAndTakesOthersIn(t *testing.T) {
	bubble(t, 2, func(t *testing.T, r *ring) {
		second := r.nodes[1]
		eventually(t, 10*time.Second, func() error {
			if !second.mesh.HasAuthorityKey() {
				return errors.New("no key yet")
			}
			return nil
		})
		info, err := os.Stat(filepath.Join(second.dir, "tls", "ca.key"))
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("the ring's key has mode %v", info.Mode())
		}
		token := r.state.token(second.mesh, id.Edge, 1, time.Hour)
		r.nodes[0].stop()
		x := r.place("x")
		e, err := mesh.Enrol(t.Context(), mesh.EnrolOptions{
			DataDir: x.dir, Token: token, Seeds: []string{r.nodes[0].addr, second.addr}, Name: "x", Network: x.network(), Boot: id.NewBoot(),
		})
		must(t, err)
		x.id = e.Node
		x.start()
		r.whole(20*time.Second, second, x)
	})
}

func TestInitRefusesAUsedDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := mesh.InitOptions{DataDir: dir, NodeName: "n1", RingName: "r"}
	_, err := mesh.InitRing(o)
	must(t, err)
	if _, err := mesh.InitRing(o); !mesh.IsCode(err, mesh.CodeRefused) {
		t.Errorf("second init: %v", err)
	}
	for _, f := range []string{"ca.key", "ca.crt", "node.key", "node.crt", "node.id"} {
		info, err := os.Stat(filepath.Join(dir, "tls", f))
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f, info.Mode())
		}
	}
	if _, err := mesh.Open(t.Context(), mesh.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0", Boot: "b", Roster: newState()}); !errors.Is(err, mesh.ErrNotEnrolled) {
		t.Errorf("open without identity: %v", err)
	}
}
