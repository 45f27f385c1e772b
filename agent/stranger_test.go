package agent

import (
	"context"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
	"github.com/ringagent/ringagent/mesh"
)

// book is a machine without Raft around it, that counts what is proposed.
type book struct {
	t       *testing.T
	machine *state.Machine
	entries uint64
}

func (b *book) Read(context.Context) (*state.State, error) { return b.machine.View(), nil }

func (b *book) Propose(_ context.Context, c state.Command) (state.Result, error) {
	b.entries++
	data, err := state.Encode(c)
	if err != nil {
		return state.Result{}, err
	}
	res, _, err := b.machine.Apply(b.entries, data)
	if err == nil && res.Code != "" {
		err = &leader.Refused{Code: string(res.Code), Message: res.Message}
	}
	return res, err
}

// TestStrangersWriteNoLog: whoever shows a token that buys nothing is answered as ever, and without an entry in the log.
func TestStrangersWriteNoLog(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := &book{t: t, machine: state.New()}
	e := enroller{self: "aaaaaaaaaaaaaaaa", now: func() time.Time { return now }, leader: b, roster: func() rosterFile { return rosterFile{} }}
	token := func(name string, uses int) state.Command {
		return state.Command{Kind: state.KindToken, At: now, By: e.self, Body: state.PutToken{Token: ring.Token{
			ID: name, SecretHash: "hash", Class: id.Edge, Uses: uses, Expires: now.Add(time.Hour)}}}
	}
	propose := func(c state.Command) {
		t.Helper()
		if _, err := b.Propose(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	propose(token("one", 1))
	propose(token("many", 5))
	propose(token("revoked", 5))
	propose(state.Command{Kind: state.KindTokenRevoke, At: now, By: e.self, Body: state.RevokeToken{ID: "revoked"}})
	ask := func(token, key string, change func(*mesh.EnrolRequest)) (mesh.EnrolGrant, error) {
		r := mesh.EnrolRequest{
			TokenID: token, SecretHash: "hash", Key: id.Digest("key-" + key), Class: id.Edge, Name: "n-" + key, Node: id.Node("dddddddddddddd" + key),
		}
		if change != nil {
			change(&r)
		}
		return e.Enrol(t.Context(), r)
	}
	first, err := ask("one", "01", nil)
	if err != nil || b.entries != 5 {
		t.Fatalf("the first: %+v, %v, %d entries; want it admitted by one", first, err, b.entries)
	}
	for _, c := range []struct {
		name, token, key string
		change           func(*mesh.EnrolRequest)
		later            time.Duration
		want             mesh.Code
	}{
		{"invented", "invented", "02", nil, 0, mesh.CodeTokenWrong},
		{"invented, no class", "invented", "02", func(r *mesh.EnrolRequest) { r.Class = "" }, 0, mesh.CodeTokenWrong},
		{"wrong secret", "many", "02", func(r *mesh.EnrolRequest) { r.SecretHash = "guess" }, 0, mesh.CodeTokenWrong},
		{"revoked", "revoked", "02", nil, 0, mesh.CodeTokenWrong},
		{"used up", "one", "02", nil, 0, mesh.CodeTokenWrong},
		{"expired", "many", "02", nil, 2 * time.Hour, mesh.CodeTokenWrong},
		{"other class", "many", "02", func(r *mesh.EnrolRequest) { r.Class = id.Core }, 0, mesh.CodeNameTaken},
		{"name taken", "many", "02", func(r *mesh.EnrolRequest) { r.Name = "n-01" }, 0, mesh.CodeNameTaken},
		{"the same key again", "one", "01", nil, 0, ""},
		{"the same key after the token's end", "one", "01", nil, 2 * time.Hour, ""},
	} {
		e.now = func() time.Time { return now.Add(c.later) }
		before := b.entries
		got, err := ask(c.token, c.key, c.change)
		if mesh.CodeOf(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if c.want == "" && (got.Node != first.Node || got.Class != first.Class || got.Name != first.Name) {
			t.Errorf("%s: %+v, want %+v as before", c.name, got, first)
		}
		if b.entries != before {
			t.Errorf("%s wrote %d entries", c.name, b.entries-before)
		}
	}
}
