package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

type note struct {
	Text string `json:"text"`
}

// register gives every test node the same methods.
func register(m *mesh.Mesh) {
	m.Handle("test.echo", mesh.Everybody, func(_ context.Context, r *mesh.Request) (any, error) {
		var in note
		if err := r.Decode(&in); err != nil {
			return nil, err
		}
		return note{Text: in.Text + " from " + r.Peer.Name}, nil
	})
	m.Handle("test.core", mesh.CoreOnly, func(context.Context, *mesh.Request) (any, error) { return note{}, nil })
	m.Handle("test.edge", mesh.EdgeOnly, func(context.Context, *mesh.Request) (any, error) { return note{}, nil })
	m.Handle("test.fail", mesh.Everybody, func(context.Context, *mesh.Request) (any, error) {
		e := mesh.Errorf(mesh.CodeNotLeader, "ask another").WithHint("there").WithDetail("leader", "abc")
		return nil, fmt.Errorf("handle: %w", e)
	})
	m.Handle("test.raw", mesh.Everybody, func(_ context.Context, r *mesh.Request) (any, error) { return r.Body, nil })
	m.Handle("test.hang", mesh.Everybody, func(ctx context.Context, _ *mesh.Request) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	m.HandleStream("test.count", mesh.Everybody, func(_ context.Context, r *mesh.Request) (func(context.Context, io.Writer) error, error) {
		var in struct{ N int }
		if err := r.Decode(&in); err != nil {
			return nil, err
		}
		if in.N < 0 {
			return nil, mesh.Errorf(mesh.CodeInvalid, "negative")
		}
		return func(_ context.Context, w io.Writer) error {
			for i := range in.N {
				if _, err := fmt.Fprintf(w, "%d\n", i); err != nil {
					return err
				}
			}
			return mesh.Errorf(mesh.CodeNotFound, "no more")
		}, nil
	})
	m.HandleStream("test.ticks", mesh.Everybody, func(context.Context, *mesh.Request) (func(context.Context, io.Writer) error, error) {
		return func(ctx context.Context, w io.Writer) error {
			tick := time.NewTicker(500 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-tick.C:
					if _, err := w.Write([]byte{'.'}); err != nil {
						return err
					}
				}
			}
		}, nil
	})
}

func echo(ctx context.Context, from, to *node) error {
	var out note
	if err := from.mesh.Call(ctx, to.id, "test.echo", note{Text: "hello"}, &out); err != nil {
		return err
	}
	if want := "hello from " + from.name; out.Text != want {
		return fmt.Errorf("echo %q, want %q", out.Text, want)
	}
	return nil
}

// threeNodes is what every network must be able to do.
func threeNodes(t *testing.T, r *ring) {
	defer r.stop()
	r.found()
	r.join(id.Core)
	r.join(id.Edge)
	r.whole(10 * time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, a := range r.nodes {
		for _, b := range r.nodes {
			if err := echo(ctx, a, b); err != nil {
				t.Errorf("%s calls %s: %v", a.name, b.name, err)
			}
			checkErrors(ctx, t, a, b)
			checkStream(ctx, t, a, b)
		}
	}
	for _, n := range r.nodes[1:] {
		if p, err := r.nodes[0].mesh.JoinAt(ctx, n.addr); err != nil || p.Node != n.id || p.Class != n.mesh.Class() {
			t.Errorf("join at the address of %s: %+v, %v", n.name, p, err)
		}
	}
	big := make([]byte, 3<<20)
	got, err := r.nodes[0].mesh.CallRaw(ctx, r.nodes[2].id, "test.raw", big)
	if err != nil || len(got) != len(big) {
		t.Errorf("raw call: %d bytes, %v", len(got), err)
	}
	if _, err := r.nodes[0].mesh.CallRaw(ctx, r.nodes[2].id, "test.raw", make([]byte, 5<<20)); !mesh.IsCode(err, mesh.CodeInvalid) {
		t.Errorf("raw call above the limit: %v", err)
	}
}

func checkErrors(ctx context.Context, t *testing.T, a, b *node) {
	t.Helper()
	err := a.mesh.Call(ctx, b.id, "test.fail", nil, nil)
	var e *mesh.Error
	if !errors.As(err, &e) || e.Code != mesh.CodeNotLeader || e.Hint != "there" || e.Detail["leader"] != "abc" {
		t.Errorf("error crossed the wire as %#v", err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := a.mesh.Call(short, b.id, "test.hang", nil, nil); !mesh.IsCode(err, mesh.CodeTimeout) {
		t.Errorf("hanging call: %v", err)
	}
}

func checkStream(ctx context.Context, t *testing.T, a, b *node) {
	t.Helper()
	s, err := a.mesh.Stream(ctx, b.id, "test.count", map[string]int{"N": 3})
	if err != nil {
		t.Errorf("stream: %v", err)
		return
	}
	defer s.Close()
	text, err := io.ReadAll(s)
	if string(text) != "0\n1\n2\n" || !mesh.IsCode(err, mesh.CodeNotFound) {
		t.Errorf("stream gave %q, %v", text, err)
	}
	if _, err := a.mesh.Stream(ctx, b.id, "test.count", map[string]int{"N": -1}); !mesh.IsCode(err, mesh.CodeInvalid) {
		t.Errorf("stream that cannot be opened: %v", err)
	}
}

func TestThreeNodes(t *testing.T) {
	t.Run("loopback", func(t *testing.T) {
		t.Parallel()
		threeNodes(t, newRing(t, nil))
	})
	t.Run("in memory", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { threeNodes(t, newRing(t, meshtest.New(1))) })
	})
}
