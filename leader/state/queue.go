package state

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// enqueue adds items, or answers with those that have their keys. All of them, or none.
func (t *txn) enqueue(b Enqueue) (any, error) {
	out := make([]ring.WorkItem, 0, len(b.Items))
	for _, w := range b.Items {
		if err := checkItem(w); err != nil {
			return nil, err
		}
		if have, ok := t.s.WorkByKey(w.Key); ok {
			out = append(out, have)
			continue
		}
		if t.s.WorkDepth("", ring.WorkPending) >= MaxPending {
			return nil, refuse(CodeRefused, "the queue is full: %d items are pending", MaxPending)
		}
		if w.ID == "" {
			t.items++
			w.ID = fmt.Sprintf("w%d-%d", t.index, t.items)
		}
		if _, taken := t.s.work.get(w.ID); taken {
			return nil, refuse(CodeConflict, "work %s exists under another key", w.ID)
		}
		w.State, w.Attempts, w.Excused, w.FailedOn = ring.WorkPending, 0, 0, nil
		w.Claim, w.Error, w.Result, w.Finished = nil, "", nil, time.Time{}
		w.Created, w.By = t.at(), t.fence()
		if w.MaxAttempts == 0 {
			w.MaxAttempts = DefaultAttempts
		}
		row := workRow{WorkItem: w, Fixed: w.Inputs, FixedParams: w.Params, Added: t.s.next()}
		t.s.putWork(row)
		t.workFact(evWorkQueued, row, t.by(), "")
		out = append(out, w)
	}
	return out, nil
}

func checkItem(w ring.WorkItem) error {
	switch {
	case w.Type == "" || len(w.Type) > 64:
		return refuse(CodeInvalid, "work type of %d bytes: want 1 to 64", len(w.Type))
	case w.Key == "" || len(w.Key) > maxKey:
		return refuse(CodeInvalid, "work key of %d bytes: want 1 to %d", len(w.Key), maxKey)
	case len(w.ID) > 64:
		return refuse(CodeInvalid, "work id of %d bytes: want at most 64", len(w.ID))
	case w.Priority < 0 || w.Priority > 100:
		return refuse(CodeInvalid, "work priority %d: want 0 to 100", w.Priority)
	case w.MaxAttempts < 0 || w.MaxAttempts > 100:
		return refuse(CodeInvalid, "work max_attempts %d: want 1 to 100, or 0 for %d", w.MaxAttempts, DefaultAttempts)
	case len(w.Params) > 64:
		return refuse(CodeInvalid, "work with %d params: want at most 64", len(w.Params))
	}
	if w.Config == "" {
		switch w.Type {
		case TypeSelfplay, TypeExport, TypeTrain, TypeEvaluate:
			return refuse(CodeInvalid, "work of type %s needs a config", w.Type)
		}
	} else {
		if _, err := id.ParseConfig(string(w.Config)); err != nil {
			return refuse(CodeInvalid, "work: %v", err)
		}
	}
	return nil
}

// putWork writes a row and everything that is derived from it.
func (s *State) putWork(r workRow) {
	if old, ok := s.work.get(r.ID); ok {
		s.count(old, -1)
		if old.Done != 0 && old.Done != r.Done {
			s.doneOrder.del(ordered(old.Done))
		}
	}
	s.work.put(r.ID, r)
	s.count(r, 1)
	s.workKeys.put(r.Key, r.ID)
	s.workOrder.put(ordered(r.Added), r.ID)
	if r.Done != 0 {
		s.doneOrder.put(ordered(r.Done), r.ID)
	}
}

func (s *State) count(r workRow, by int) {
	k := depthKey(r.Type, r.State)
	n, _ := s.depth.get(k)
	if n += by; n == 0 {
		s.depth.del(k)
		return
	}
	s.depth.put(k, n)
}

func (t *txn) item(workID string) (workRow, error) {
	r, ok := t.s.work.get(workID)
	if !ok {
		return r, refuse(CodeNotFound, "work %s is unknown", workID)
	}
	return r, nil
}

// checkClaim refuses everybody but the holder of the item's one live claim.
func checkClaim(r workRow, claim string) error {
	if r.Claim == nil || r.State != ring.WorkClaimed && r.State != ring.WorkRunning {
		return refuse(CodeConflict, "work %s is %s and has no claim", r.ID, r.State)
	}
	if r.Claim.ID != claim || claim == "" {
		return refuse(CodeConflict, "work %s: claim %s is not the current one", r.ID, claim)
	}
	return nil
}

func (t *txn) claim(b ClaimWork) (any, error) {
	r, err := t.item(b.Work)
	if err != nil {
		return nil, err
	}
	if r.Claim != nil && r.Claim.ID == b.Claim.ID && r.Claim.Node == b.Claim.Node && !r.State.Finished() {
		return r.WorkItem, nil // the answer was lost
	}
	switch {
	case r.State != ring.WorkPending:
		return nil, refuse(CodeConflict, "work %s is %s", r.ID, r.State)
	case b.Claim.ID == "" || b.Claim.Lease <= 0:
		return nil, refuse(CodeInvalid, "claim needs an id and a lease")
	case t.at().Before(r.NotBefore):
		return nil, refuse(CodeRefused, "work %s rests until %s", r.ID, r.NotBefore.Format(time.RFC3339))
	case !r.Deadline.IsZero() && t.at().After(r.Deadline):
		return nil, refuse(CodeRefused, "work %s has passed its deadline", r.ID)
	}
	m, err := t.member(b.Claim.Node)
	switch {
	case err != nil:
		return nil, err
	case !m.Live():
		return nil, refuse(CodeRefused, "node %s is not alive", m.ID)
	case m.Boot != b.Claim.Boot:
		return nil, refuse(CodeConflict, "node %s runs boot %s, not %s", m.ID, m.Boot, b.Claim.Boot)
	}
	if err := t.resolve(&r, b); err != nil {
		return nil, err
	}
	c := b.Claim
	c.At, c.Started = t.at(), time.Time{}
	r.State, r.Claim = ring.WorkClaimed, &c
	t.s.putWork(r)
	t.workFact(evWorkClaimed, r, c.Node, "")
	return r.WorkItem, nil
}

// resolve fixes what the run gets. Inputs that were fixed when the item was added stay.
func (t *txn) resolve(r *workRow, b ClaimWork) error {
	if b.Inputs != nil {
		for _, in := range r.Fixed {
			if !slices.Contains(b.Inputs, in) {
				return refuse(CodeInvalid, "work %s: the claim lacks its input %s %s", r.ID, in.Role, in.Digest.Short())
			}
		}
		r.Inputs = b.Inputs
	}
	for _, in := range r.Inputs {
		if _, ok := t.s.artifact(in.Digest); !ok {
			return refuse(CodeRefused, "work %s: input %s %s is unknown", r.ID, in.Role, in.Digest.Short())
		}
	}
	if len(b.Params) > 0 {
		p := maps.Clone(b.Params)
		maps.Copy(p, r.FixedParams)
		r.Params = p
	}
	return nil
}

func (t *txn) start(b StartWork) (any, error) {
	r, err := t.item(b.Work)
	if err != nil {
		return nil, err
	}
	if err := t.m.rules.claim(r, b.Claim); err != nil {
		return nil, err
	}
	if r.State == ring.WorkRunning {
		return r.WorkItem, nil
	}
	t.started(&r)
	t.s.putWork(r)
	return r.WorkItem, nil
}

// started counts an attempt.
func (t *txn) started(r *workRow) {
	c := *r.Claim
	c.Started = t.at()
	r.Claim, r.State = &c, ring.WorkRunning
	r.Attempts++
	t.workFact(evWorkStarted, *r, c.Node, "")
	if r.Type == TypeTrain {
		t.trainingStarted(*r)
	}
}

// release takes a claim back without blame: the run may have been fine. Only an item whose runs end in silence again and
// again is given up, since it may be what kills its nodes.
func (t *txn) release(b ReleaseWork) (any, error) {
	r, err := t.item(b.Work)
	if err != nil {
		return nil, err
	}
	if err := t.m.rules.claim(r, b.Claim); err != nil {
		return nil, err
	}
	t.handBack(&r, b.Reason, b.Timeout)
	return r.WorkItem, nil
}

func (t *txn) handBack(r *workRow, reason string, timeout bool) {
	node := r.Claim.Node
	if timeout {
		t.workFact(evWorkTimeout, *r, node, reason)
	}
	if !r.Claim.Started.IsZero() {
		r.Excused++
	}
	r.Error = reason
	r.unclaim()
	if timeout && r.Attempts >= silentRounds*r.MaxAttempts {
		t.end(r, ring.WorkDead)
		t.workFact(evWorkDead, *r, node, reason)
		return
	}
	r.State = ring.WorkPending
	t.s.putWork(*r)
	t.workFact(evWorkRetry, *r, node, reason)
}

// silentRounds times MaxAttempts runs may end by timeout before the item is given up.
const silentRounds = 3

// unclaim makes the item as it was before its claim.
func (r *workRow) unclaim() { r.Claim, r.Inputs, r.Params = nil, r.Fixed, r.FixedParams }

// takeBack releases all claims of a node.
func (t *txn) takeBack(n id.Node, reason string) {
	for _, r := range t.s.work.all() {
		if r.Claim != nil && r.Claim.Node == n && !r.State.Finished() {
			t.handBack(&r, reason, false)
		}
	}
}

func (t *txn) cancel(b CancelWork) (any, error) {
	r, err := t.item(b.Work)
	if err != nil {
		return nil, err
	}
	if r.State == ring.WorkCancelled {
		return r.WorkItem, nil
	}
	if r.State.Finished() {
		return nil, refuse(CodeRefused, "work %s is %s", r.ID, r.State)
	}
	node := t.by()
	if r.Claim != nil {
		node = r.Claim.Node
	}
	r.Error = b.Reason
	t.end(&r, ring.WorkCancelled)
	t.workFact(evWorkCancelled, r, node, b.Reason)
	return r.WorkItem, nil
}

func (t *txn) retry(b RetryWork) (any, error) {
	r, err := t.item(b.Work)
	if err != nil {
		return nil, err
	}
	switch r.State {
	case ring.WorkFailed, ring.WorkDead, ring.WorkCancelled:
	default:
		return nil, refuse(CodeRefused, "work %s is %s: only what failed, is dead or was cancelled can be tried again", r.ID, r.State)
	}
	if t.s.WorkDepth("", ring.WorkPending) >= MaxPending {
		return nil, refuse(CodeRefused, "the queue is full: %d items are pending", MaxPending)
	}
	r.unclaim()
	r.State, r.Attempts, r.Excused, r.Failures, r.FailedOn = ring.WorkPending, 0, 0, 0, nil
	r.NotBefore, r.Deadline, r.Finished, r.Error = time.Time{}, time.Time{}, time.Time{}, ""
	r.Result, r.Done, r.EndedBy, r.EndedBad = nil, 0, "", false
	t.s.putWork(r)
	t.workFact(evWorkRetry, r, t.by(), "asked for")
	return r.WorkItem, nil
}
