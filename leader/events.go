package leader

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/field"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader/state"
)

const (
	// entriesInFlight bounds how many entries of events wait for their commit.
	entriesInFlight = 4
	entryRoom       = state.MaxEntry - 64
	// worthSending is the size from which an entry does not wait for those before it. Smaller ones are under way one at a
	// time: fsyncs on every voter are the price of each, and what gathers meanwhile travels for the same. A slow link still
	// gets four large ones. With two small ones at a time, one in the coordinator's disk and one in the followers', 64
	// publishers who wait cost a third more processor time and had their events no sooner.
	worthSending = entryRoom / 4
	// reasonRoom bounds what is kept of a verdict. An outbox sends up to 512 drafts and 192 KiB in a batch, and sends the same
	// batch until it is placed: with a verdict on each of them it must still be small enough for an entry.
	reasonRoom = 90
	// originRoom is the most bytes of an outbox's id, which stands in each of its records. Ids are 16 hex digits.
	originRoom = 64
)

// batchProposal is one origin's batch on its way.
type batchProposal struct {
	batch state.EventBatch
	size  int
	done  chan batchOutcome // buffered
	taken bool              // out of the queue: it is answered
}

type batchOutcome struct {
	res state.AppendResult
	err error
}

// ProposeEvents places a batch of one outbox in the log. The batch must be of this node and small enough for an entry
// (state.BatchSize below 256 KiB). Whatever its error, proposing it again is harmless: numbers that stand are skipped, and
// the answer says which number is expected next. The coordinator shares its entries between the batches of many callers.
func (n *Node) ProposeEvents(ctx context.Context, b state.EventBatch) (state.AppendResult, error) {
	if size := state.BatchSize(&b); size > entryRoom {
		return state.AppendResult{}, fmt.Errorf("batch of %d bytes: %w", size, state.ErrTooLarge)
	}
	var wire []byte
	var res state.AppendResult
	err := n.atCoordinator(ctx, func(ctx context.Context, t *term) error {
		var err error
		res, err = t.place(ctx, b)
		return err
	}, func(ctx context.Context, r remote) error {
		if wire == nil {
			wire = encodeBatch(b)
		}
		out, err := r.raw(ctx, methodEvents, wire)
		if err != nil {
			return err
		}
		return wrap("decode answer", json.Unmarshal(out, &res))
	})
	return res, err
}

func serveEvents(ctx context.Context, t *term, from id.Node, in []byte) ([]byte, error) {
	b, err := readBatch(in)
	if err != nil {
		return nil, &Refused{Code: string(state.CodeInvalid), Message: err.Error()}
	}
	if b.Node != from {
		return nil, &Refused{Code: string(state.CodeUnauth), Message: fmt.Sprintf("%s may not publish for %s", from, b.Node)}
	}
	res, err := t.place(ctx, b)
	if err != nil {
		return nil, err
	}
	return json.Marshal(res)
}

func (t *term) place(ctx context.Context, b state.EventBatch) (state.AppendResult, error) {
	// What is no text would be another one in a state that was written down and read again.
	if len(b.Origin) > originRoom || !utf8.ValidString(string(b.Origin)) {
		return state.AppendResult{}, &Refused{Code: string(state.CodeInvalid), Message: fmt.Sprintf("origin %.20q is no id of an outbox", b.Origin)}
	}
	s := t.n.machine.View()
	if _, known := s.Origin(b.Origin); !known && crowded(s, b.Node, outboxes) {
		return state.AppendResult{}, &Refused{Code: string(state.CodeInvalid), Message: fmt.Sprintf("node %s has %d outboxes, which is the most", b.Node, outboxes)}
	}
	if vet := t.n.cfg.Ports.Vet; vet != nil {
		b.Refused = nil
		for i, d := range b.Drafts {
			if reason := vet(d); reason != "" {
				b.Refused = append(b.Refused, state.Refusal{Draft: i, Reason: shorten(reason, reasonRoom)})
			}
		}
	}
	p := &batchProposal{batch: b, size: state.BatchSize(&b), done: make(chan batchOutcome, 1)}
	if p.size > entryRoom {
		return state.AppendResult{}, &Refused{Code: string(state.CodeInvalid), Message: "batch too large"}
	}
	select {
	case t.batches <- p:
	case <-t.ctx.Done():
		return state.AppendResult{}, ErrNoCoordinator
	case <-ctx.Done():
		return state.AppendResult{}, fmt.Errorf("%w: %w", ErrNoCoordinator, ctx.Err())
	}
	o, err := reply(ctx, p.done, t.batchesEnded, &p.taken)
	if err != nil {
		return state.AppendResult{}, err
	}
	return o.res, o.err
}

// shorten is the front of s, at most n bytes of it and no half characters.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// runBatches gathers what is waiting into entries: while one is on its way the next one grows, so that an idle ring answers
// at once and a busy one pays few fsyncs.
func (t *term) runBatches() {
	ended := make(chan struct{}, entriesInFlight)
	taken := make(chan waiting, entriesInFlight)
	go await(taken)
	defer close(taken)
	defer close(t.batchesEnded)
	var held []*batchProposal
	size, flying := 0, 0
	for {
		if len(held) > 0 && (flying == 0 || size >= worthSending && flying < entriesInFlight) {
			group, rest, left := firstEntry(held)
			held, size, flying = rest, left, flying+1
			taken <- t.entry(group, ended)
			continue
		}
		in := t.batches
		if size >= entryRoom { // a whole entry waits already: the rest stays in the queue
			in = nil
		}
		select {
		case p := <-in:
			p.taken = true
			held, size = append(held, p), size+p.size
			for more := true; more && size < entryRoom; { // whoever is there by now comes along
				select {
				case p := <-in:
					p.taken = true
					held, size = append(held, p), size+p.size
				default:
					more = false
				}
			}
		case <-ended:
			flying--
		case <-t.ctx.Done():
			t.sendAway(held)
			return
		}
	}
}

// firstEntry takes from the front what fits into one entry; left is the size of the rest.
func firstEntry(held []*batchProposal) (group, rest []*batchProposal, left int) {
	size, n := 0, 0
	for n < len(held) && (n == 0 || size+held[n].size <= entryRoom) {
		size, n = size+held[n].size, n+1
	}
	for _, p := range held[n:] {
		left += p.size
	}
	return held[:n:n], held[n:], left
}

// sendAway answers what was not proposed.
func (t *term) sendAway(held []*batchProposal) {
	for {
		select {
		case p := <-t.batches:
			p.taken = true
			held = append(held, p)
			continue
		default:
		}
		break
	}
	for _, p := range held {
		p.done <- batchOutcome{err: ErrNoCoordinator}
	}
}

// entry proposes a group and answers each of its batches.
func (t *term) entry(group []*batchProposal, ended chan<- struct{}) waiting {
	batches := make([]state.EventBatch, len(group))
	for i, p := range group {
		batches[i] = p.batch
	}
	answer := func(r state.Result, err error) {
		ended <- struct{}{} // has room for all that fly
		results, ok := r.Value.([]state.AppendResult)
		if err == nil && (!ok || len(results) != len(group)) {
			err = errors.New("the state machine's answer does not fit the batches")
		}
		for i, p := range group {
			o := batchOutcome{err: err}
			if err == nil {
				o.res = results[i]
			}
			p.done <- o
		}
	}
	return waiting{t.raft.Apply(state.AppendEvents(time.Now(), batches), enqueueTimeout), answer}
}

// encodeBatch is a batch as it travels to the coordinator. Verdicts do not travel: they are the coordinator's own.
func encodeBatch(e state.EventBatch) []byte {
	b := make([]byte, 0, state.BatchSize(&e)) // a little more than it takes
	b = field.Append(b, e.Origin)
	b = field.Append(b, e.Node)
	b = binary.AppendUvarint(b, e.First)
	b = binary.AppendUvarint(b, e.Lost)
	b = append(b, e.Before[:]...)
	b = binary.AppendUvarint(b, uint64(len(e.Drafts)))
	for _, d := range e.Drafts {
		b = field.Append(b, d)
	}
	return b
}

var errBatchForm = errors.New("malformed batch of events")

func readBatch(b []byte) (state.EventBatch, error) {
	r := field.Read(b)
	e := state.EventBatch{Origin: event.Origin(r.Bytes()), Node: id.Node(r.Bytes()), First: r.Uvarint(), Lost: r.Uvarint()}
	copy(e.Before[:], r.Take(uint64(len(e.Before))))
	e.Drafts = make([][]byte, r.Count())
	for i := range e.Drafts {
		e.Drafts[i] = r.Bytes()
	}
	if !r.Whole() {
		return e, errBatchForm
	}
	return e, nil
}
