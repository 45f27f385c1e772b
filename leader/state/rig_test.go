package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

const (
	nodeA id.Node   = "aaaaaaaaaaaaaaaa"
	nodeB id.Node   = "bbbbbbbbbbbbbbbb"
	nodeC id.Node   = "cccccccccccccccc"
	c4    id.Config = "connect4_2p"
)

var epochStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func bootOf(n id.Node) id.Boot { return id.Boot("0" + n[1:]) }

func digest(name string) id.Digest { return id.DigestOf([]byte(name)) }

// rig drives a machine through encoded entries, and keeps them.
type rig struct {
	t       testing.TB
	m       *Machine
	at      time.Time
	index   uint64
	entries [][]byte
	placed  []Placed
}

// newRig is a ring of three core nodes that have reported, with a coordinator.
func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, m: New(), at: epochStart}
	r.ok(Lead{Node: nodeA, Term: 1}, nil)
	r.ok(PutToken{ring.Token{ID: "tok", SecretHash: "hash", Class: id.Core, Uses: 50, Expires: r.at.Add(time.Hour)}}, nil)
	for _, n := range []id.Node{nodeA, nodeB, nodeC} {
		r.enrol(n, "tok", id.Core)
		r.report(n, bootOf(n))
	}
	return r
}

func (r *rig) enrol(n id.Node, token string, c id.Class) {
	r.t.Helper()
	r.ok(enrolment(n, token, c), nil)
}

func enrolment(n id.Node, token string, c id.Class) Enrol {
	return Enrol{TokenID: token, SecretHash: "hash", Class: c, Member: ring.Member{ID: n, Name: "n-" + string(n[:1]), KeyHash: "key-" + string(n)}}
}

func (r *rig) report(n id.Node, b id.Boot) {
	r.t.Helper()
	r.ok(Report{ring.Member{ID: n, Boot: b, Slots: ring.Slots{CPU: 8, GPU: 1, RAMMiB: 4096, DiskMiB: 4096}}}, nil)
}

// do applies a body under a fence.
func (r *rig) do(body any, f *ring.Fence, events ...event.Draft) Result {
	r.t.Helper()
	return r.command(Command{Kind: kindOf(body), Fence: f, Body: body, Events: events})
}

func (r *rig) command(c Command) Result {
	r.t.Helper()
	if c.At.IsZero() {
		c.At = r.at
	}
	b, err := Encode(c)
	if err != nil {
		r.t.Fatalf("Encode(%T): %v", c.Body, err)
	}
	return r.apply(b)
}

func (r *rig) apply(entry []byte) Result {
	r.t.Helper()
	r.index++
	r.entries = append(r.entries, bytes.Clone(entry))
	res, placed, err := r.m.Apply(r.index, entry)
	if err != nil {
		r.t.Fatalf("Apply(%d): %v", r.index, err)
	}
	r.placed = append(r.placed, placed...)
	return res
}

func (r *rig) ok(body any, f *ring.Fence, events ...event.Draft) Result {
	r.t.Helper()
	res := r.do(body, f, events...)
	if res.Code != "" {
		r.t.Fatalf("%T was refused: %s: %s", body, res.Code, res.Message)
	}
	return res
}

func (r *rig) refused(want Code, body any, f *ring.Fence, events ...event.Draft) Result {
	r.t.Helper()
	before, head := Digest(r.m.View()), r.m.View().LogHead()
	res := r.do(body, f, events...)
	if res.Code != want {
		r.t.Fatalf("%T: code %q (%s), want %q", body, res.Code, res.Message, want)
	}
	if r.m.View().LogHead() != head {
		r.t.Fatalf("%T was refused and yet placed events", body)
	}
	after := *r.m.View()
	after.meta.Index--
	if Digest(&after) != before {
		r.t.Fatalf("%T was refused and yet changed the state", body)
	}
	return res
}

// assign gives a singleton to a node and returns its right.
func (r *rig) assign(daemon string, n id.Node) *ring.Fence {
	r.t.Helper()
	cur, _ := r.m.View().Assignment(daemon)
	res := r.ok(Assign{Daemon: daemon, Node: n, Boot: bootOf(n), Previous: cur.Epoch}, nil)
	return &ring.Fence{Daemon: daemon, Epoch: res.Value.(ring.Assignment).Epoch}
}

func (r *rig) artifact(name string, k ring.Kind, holders ...id.Node) ring.Artifact {
	r.t.Helper()
	a := ring.Artifact{Digest: digest(name), Kind: k, Config: c4, Bytes: 10, Origin: nodeA, Holders: holders}
	r.ok(AddArtifacts{[]ring.Artifact{a}}, nil)
	return a
}

func item(typ, key string, inputs ...ring.Input) ring.WorkItem {
	return ring.WorkItem{Type: typ, Key: key, Config: c4, Inputs: inputs, Needs: ring.Slots{CPU: 1}}
}

func (r *rig) enqueue(w ring.WorkItem) string {
	r.t.Helper()
	return r.ok(Enqueue{[]ring.WorkItem{w}}, nil).Value.([]ring.WorkItem)[0].ID
}

func claimBy(n id.Node, claim string) ring.Claim {
	return ring.Claim{ID: claim, Node: n, Boot: bootOf(n), Lease: ring.Duration(time.Minute)}
}

func (r *rig) claim(workID, claim string, n id.Node) {
	r.t.Helper()
	r.ok(ClaimWork{Work: workID, Claim: claimBy(n, claim)}, nil)
}

func (r *rig) work(workID string) ring.WorkItem {
	r.t.Helper()
	w, ok := r.m.View().Work(workID)
	if !ok {
		r.t.Fatalf("work %s is not kept", workID)
	}
	return w
}

// records is the decoded log from seq after+1 on.
func (r *rig) records(after uint64) []event.Record {
	r.t.Helper()
	var out []event.Record
	for _, p := range r.placed {
		if p.Seq <= after {
			continue
		}
		rec, err := event.DecodeRecord(p.Bytes)
		if err != nil {
			r.t.Fatalf("record %d: %v", p.Seq, err)
		}
		out = append(out, rec)
	}
	return out
}

// told is the types of the events after seq, in order.
func (r *rig) told(after uint64) []string {
	r.t.Helper()
	var out []string
	for _, rec := range r.records(after) {
		out = append(out, string(rec.Type))
	}
	return out
}

func (r *rig) seq() uint64 { return r.m.View().LogHead().Seq }

func payload(t testing.TB, rec event.Record) map[string]any {
	t.Helper()
	var p map[string]any
	if err := json.Unmarshal(rec.Payload, &p); err != nil {
		t.Fatalf("payload of %s: %v", rec.Type, err)
	}
	return p
}

// outbox makes batches like a node's outbox does.
type outbox struct {
	origin event.Origin
	node   id.Node
	last   uint64
	hash   event.Hash
}

func (o *outbox) batch(drafts ...event.Draft) EventBatch {
	b := EventBatch{Origin: o.origin, Node: o.node, First: o.last + 1, Before: o.hash}
	for _, d := range drafts {
		if d.Node == "" {
			d.Node = o.node
		}
		enc := event.AppendDraft(nil, d)
		b.Drafts = append(b.Drafts, enc)
		o.last++
		o.hash = o.hash.Next(enc)
	}
	return b
}

func note(n int) event.Draft {
	return event.Draft{Type: "OPERATOR_NOTE", Time: epochStart, Payload: json.RawMessage(fmt.Sprintf(`{"text":"%d"}`, n))}
}

func (r *rig) events(batches ...EventBatch) []AppendResult {
	r.t.Helper()
	return r.apply(AppendEvents(r.at, batches)).Value.([]AppendResult)
}

// inCatalogue holds a record that the machine made against the catalogue: the state machine may state it, every field is
// there under its own name.
func inCatalogue(t testing.TB, rec event.Record) {
	t.Helper()
	d, err := event.Catalogue().Prepare(rec.Draft, event.ByState)
	if err != nil {
		t.Errorf("%s %s: %v", rec.Type, rec.Payload, err)
		return
	}
	if !bytes.Equal(d.Payload, rec.Payload) {
		t.Errorf("%s: payload %s would be %s", rec.Type, rec.Payload, d.Payload)
	}
}
