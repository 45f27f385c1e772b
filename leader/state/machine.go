package state

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Placed is an event record that an entry put into the log: what a replica stores.
type Placed struct {
	Seq   uint64
	Hash  event.Hash // running hash of the log after this record
	Bytes []byte     // event.AppendRecord form
}

// ErrReplayed is returned by Apply for an index that is not above the state's.
var ErrReplayed = errors.New("entry was applied before")

// Machine applies entries. Apply and Restore belong to one goroutine; View is for all.
type Machine struct {
	cur   atomic.Pointer[State]
	rules rules
	chain chain
}

// rules are the checks on which the promises of the state rest. A test swaps one for a broken variant to prove that its
// absence is noticed.
type rules struct {
	fence    func(*State, ring.Fence, id.Node) error
	claim    func(workRow, string) error
	expect   func(have, want uint64) error
	position func(have, want uint64) error
	copies   func(stay, want int) error
	joined   func(counted, games int64) error
	carries  func(*txn, ring.Artifact) bool
	newBoot  func(*txn, id.Node, id.Boot)
}

func strictRules() rules {
	return rules{fence: checkFence, claim: checkClaim, expect: checkExpect, position: checkPosition, copies: checkCopies,
		joined: checkJoined, carries: carries, newBoot: giveUpOld}
}

// New is a machine with the state of a ring that has no entry yet.
func New() *Machine {
	m := &Machine{rules: strictRules(), chain: newChain()}
	m.cur.Store(emptyState())
	return m
}

// View is the state after the last applied entry. It never blocks and never changes.
func (m *Machine) View() *State { return m.cur.Load() }

// Restore replaces the state, as a snapshot demands.
func (m *Machine) Restore(s *State) { m.cur.Store(s) }

// Apply applies the entry at index and returns its answer and the records that it placed in the event log, in order. A
// refusal is an answer (Result.Code), not an error; the state is then unchanged but for its index. An error means that
// this process cannot follow the log: ErrUnknownCommand or ErrReplayed, and the state is as before.
//
// For KindEvents Result.Value is []AppendResult. The bytes of the records do not alias data.
func (m *Machine) Apply(index uint64, data []byte) (Result, []Placed, error) {
	old := m.cur.Load()
	if index <= old.meta.Index {
		return Result{}, nil, fmt.Errorf("apply entry %d to a state at %d: %w", index, old.meta.Index, ErrReplayed)
	}
	t := &txn{m: m, s: *old, index: index}
	t.s.meta.Index = index
	var res Result
	var err error
	if len(data) >= 2 && data[0] == format && Kind(data[1]) == KindEvents {
		res, err = t.appendEvents(data[2:])
	} else {
		res, err = t.command(data)
	}
	if err != nil {
		return Result{}, nil, fmt.Errorf("apply entry %d: %w", index, err)
	}
	if res.Code != "" {
		refused := *old
		refused.meta.Index = index
		m.cur.Store(&refused)
		return res, nil, nil
	}
	t.s.share()
	m.cur.Store(&t.s)
	return res, t.placed, nil
}

// txn is one entry on its way: a copy of the state that is kept or thrown away as a whole.
type txn struct {
	m      *Machine
	s      State
	index  uint64
	cmd    Command
	items  int           // work items that were given an id
	facts  []event.Draft // made by the machine, in order
	placed []Placed
}

func (t *txn) at() time.Time { return t.cmd.At }

// by is the node that speaks; a command that does not name it is the coordinator's own.
func (t *txn) by() id.Node {
	if t.cmd.By == "" {
		return t.s.meta.Coordinator
	}
	return t.cmd.By
}

func (t *txn) command(data []byte) (Result, error) {
	c, err := Decode(data)
	if err != nil {
		return Result{}, err
	}
	t.cmd = c
	res := Result{Index: t.index}
	if y := c.At.Year(); y < 0 || y > 9999 { // no snapshot could be made of a state in which it stands
		res.Code, res.Message = CodeInvalid, fmt.Sprintf("the command is of the year %d", y)
		return res, nil
	}
	if c.Once != "" {
		if row, ok := t.s.once.get(c.Once); ok {
			return row.result(c.Kind)
		}
	}
	value, err := t.run(c)
	var no *refusal
	switch {
	case errors.As(err, &no):
		res.Code, res.Message = no.code, no.message
		return res, nil
	case err != nil:
		return Result{}, err
	}
	for _, d := range t.facts {
		t.place(d)
	}
	for _, d := range c.Events {
		res.Seqs = append(res.Seqs, t.place(d))
	}
	res.Value = value
	return res, t.remember(res)
}

// run applies a command up to its events.
func (t *txn) run(c Command) (any, error) {
	if c.Fence != nil {
		if err := t.m.rules.fence(&t.s, *c.Fence, c.By); err != nil {
			return nil, err
		}
	}
	before := t.s
	var value any
	var err error
	steps := []Step{{c.Kind, c.Body}}
	if e, ok := c.Body.(Effect); ok {
		steps = e.Steps
		values := make([]any, len(steps))
		for i, st := range steps {
			if values[i], err = t.step(st.Body); err != nil {
				return nil, inStep(i, err)
			}
		}
		value = values
	} else if value, err = t.step(c.Body); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(steps, func(s Step) bool { return rosterKind(s.Kind) }) {
		t.tellCluster(&before)
	}
	return value, t.checkEvents(&before, steps)
}

// inStep says in a refusal which step of an effect it was.
func inStep(i int, err error) error {
	var no *refusal
	if errors.As(err, &no) {
		return &refusal{no.code, fmt.Sprintf("step %d: %s", i+1, no.message)}
	}
	return err
}

func (t *txn) step(body any) (any, error) {
	switch b := body.(type) {
	case Enrol:
		return t.enrol(b)
	case Report:
		return t.report(b)
	case SetStatus:
		return t.setStatus(b)
	case Revoke:
		return t.revoke(b)
	case Forget:
		return nil, t.forget(b.Node)
	case PutToken:
		return nil, t.putToken(b)
	case RevokeToken:
		return nil, t.revokeToken(b)
	case Assign:
		return t.assign(b)
	case SwitchDaemon:
		return nil, t.switchDaemon(b)
	case Enqueue:
		return t.enqueue(b)
	case ClaimWork:
		return t.claim(b)
	case StartWork:
		return t.start(b)
	case FinishWork:
		return t.finish(b)
	case ReleaseWork:
		return t.release(b)
	case CancelWork:
		return t.cancel(b)
	case RetryWork:
		return t.retry(b)
	case AddArtifacts:
		return t.addArtifacts(b.Artifacts)
	case AddReceipts:
		return t.addReceipts(b)
	case StateRepeats:
		return nil, t.stateRepeats(b)
	case JoinPacks:
		return nil, t.joinPacks(b)
	case DropCopies:
		return nil, t.dropCopies(b)
	case SetName:
		return t.setName(b)
	case SetPositions:
		return nil, t.setPositions(b)
	case PutNote:
		return nil, t.putNote(b)
	case PutDeadLetter:
		return nil, t.putDeadLetter(b)
	case PutSettings:
		return t.putSettings(b)
	case Raise:
		return nil, t.raise(b)
	case Lead:
		return nil, t.lead(b)
	}
	return nil, fmt.Errorf("body %T: %w", body, ErrUnknownCommand)
}

// refusal is the error of a command that the state does not allow.
type refusal struct {
	code    Code
	message string
}

func (r *refusal) Error() string { return string(r.code) + ": " + r.message }

func refuse(c Code, format string, args ...any) error {
	return &refusal{c, fmt.Sprintf(format, args...)}
}

// checkFence refuses a right that is not, or no longer, the daemon's, and one that somebody else's node presents.
func checkFence(s *State, f ring.Fence, by id.Node) error {
	a, ok := s.assignments.get(f.Daemon)
	switch {
	case !ok || a.Node == "":
		return refuse(CodeStale, "%s is assigned to nobody", f.Daemon)
	case a.Epoch != f.Epoch:
		return refuse(CodeStale, "%s: epoch %d is not the current %d", f.Daemon, f.Epoch, a.Epoch)
	case by != "" && by != a.Node:
		return refuse(CodeStale, "%s: epoch %d belongs to node %s, not %s", f.Daemon, f.Epoch, a.Node, by)
	}
	return nil
}

// needFence refuses an effect of a singleton that came without, or with another daemon's, right.
func (t *txn) needFence(daemon string) error {
	if t.cmd.Fence == nil {
		return refuse(CodeStale, "an effect of %s needs its epoch", daemon)
	}
	if t.cmd.Fence.Daemon != daemon {
		return refuse(CodeStale, "an effect of %s came under the epoch of %s", daemon, t.cmd.Fence.Daemon)
	}
	return nil
}

func (t *txn) fence() ring.Fence {
	if t.cmd.Fence == nil {
		return ring.Fence{}
	}
	return *t.cmd.Fence
}
