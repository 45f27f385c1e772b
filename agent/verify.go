package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/mesh"
)

func (a *Agent) verifyHere(ctx context.Context) api.VerifyNode {
	out := api.VerifyNode{Node: a.node.Name, OK: new(false), Oldest: new(a.replica.Status().Oldest)}
	v, err := a.replica.Verify(ctx)
	if err != nil {
		out.Error = err.Error()
		return out
	}
	out.OK, out.LastSeq, out.Hash = &v.OK, &v.LastSeq, new(v.Hash.String())
	if !v.OK {
		out.FirstBad, out.Error = &v.FirstBad, v.Detail
	}
	if st := a.replica.Status(); st.Short && v.OK {
		out.OK, out.FirstBad, out.Error = new(false), new(st.Last+1), fmt.Sprintf("lacks events up to %d, and nobody who answers can supply them", st.Target)
	}
	if d := a.replica.Status().Diverged; d != nil && v.OK {
		out.OK, out.FirstBad, out.Error = new(false), &d.Seq, d.Error()
	}
	return out
}

// verifyInTurn is verifyHere for other nodes. Each reads and hashes the whole log, so that they wait for one another.
func (a *Agent) verifyInTurn(ctx context.Context) (api.VerifyNode, error) {
	end, err := a.verifying.take(ctx, "")
	if err != nil {
		return api.VerifyNode{}, mesh.Errorf(mesh.CodeBusy, "this node verifies its log for others")
	}
	defer end()
	return a.verifyHere(ctx), nil
}

// verifyEvents verifies this replica, and with all those of every node that belongs to the ring; where two reach the same seq, their
// hashes must be the same. Of a node that does not answer nothing is known: it is no proof of anything that it is left out.
func (a *Agent) verifyEvents(ctx context.Context, all bool) api.Verify {
	here := a.verifyHere(ctx)
	rows := []api.VerifyNode{here}
	if all {
		var mu sync.Mutex
		var group sync.WaitGroup
		for n, name := range a.replicas() {
			group.Go(func() {
				row := compared(here, a.verifyThere(ctx, n, name), hashesOf(ctx, a.replica), hashesOf(ctx, puller{a: a, node: n}))
				mu.Lock()
				rows = append(rows, row)
				mu.Unlock()
			})
		}
		group.Wait()
	}
	slices.SortFunc(rows, func(x, y api.VerifyNode) int { return strings.Compare(x.Node, y.Node) })
	out := api.Verify{OK: new(true), LastSeq: here.LastSeq, Hash: here.Hash, Nodes: rows}
	for _, row := range rows {
		switch {
		case row.OK == nil && out.OK != nil && *out.OK:
			out.OK = nil
		case row.OK != nil && !*row.OK:
			out.OK = new(false) // whatever the others say
		}
	}
	return out
}

// replicas are the other nodes that should have a copy of the log, with their names: all that have not left or been shut out.
func (a *Agent) replicas() map[id.Node]string {
	out := map[id.Node]string{}
	left := map[id.Node]bool{}
	for _, m := range a.roster.file().Members {
		if m.Revoked || m.Status == ring.Left {
			left[m.ID] = true
		} else {
			out[m.ID] = m.Name
		}
	}
	for _, m := range a.mesh.Members() {
		e, _ := a.roster.Lookup(m.ID)
		switch s := statusOf(m); {
		case s == ring.Left || e.Revoked:
			delete(out, m.ID)
		case s != ring.Failed || !left[m.ID]: // one that left may be back before the roster says so
			out[m.ID] = cmp.Or(out[m.ID], m.Name)
		}
	}
	delete(out, a.node.ID)
	return out
}

const (
	// answerWait is for a node to show that it is there, and to hand out what it has.
	answerWait = 2 * time.Second
	// hashWait is for it to hash its copy of the log.
	hashWait = 10 * time.Minute
)

func (a *Agent) verifyThere(ctx context.Context, n id.Node, name string) (v api.VerifyNode) {
	there, cancel := context.WithTimeout(ctx, answerWait)
	_, err := a.mesh.Ping(there, n)
	cancel()
	if err != nil {
		return api.VerifyNode{Node: name, Error: fmt.Sprintf("does not answer: %v", err)}
	}
	there, cancel = context.WithTimeout(ctx, hashWait)
	defer cancel()
	if err := a.mesh.Call(there, n, methodVerify, struct{}{}, &v); err != nil {
		return api.VerifyNode{Node: name, Error: fmt.Sprintf("could not verify it: %v", err)}
	}
	v.Node = name
	return v
}

// compared is another replica's row after it was held against this node's where both have a seq; mine and its are their hashes. Of two
// sound chains that differ, all hashes from the first difference on do, so that the newest seq which both have tells, and the first is
// found by halving.
func compared(here, there api.VerifyNode, mine, its func(seq uint64) (string, error)) api.VerifyNode {
	if !*here.OK || there.OK == nil || !*there.OK || there.Oldest == nil || there.LastSeq == nil || there.Hash == nil {
		return there
	}
	oldest, last := max(*here.Oldest, *there.Oldest, 1), min(*here.LastSeq, *there.LastSeq)
	if last < oldest {
		there.Error = fmt.Sprintf("not compared with the replica of %s: they have no seq in common", here.Node)
		return there
	}
	first, differ, err := firstDifference(oldest, last, func(seq uint64) (bool, error) {
		x, y := *here.Hash, *there.Hash
		var err error
		if seq != *here.LastSeq {
			x, err = mine(seq)
		}
		if seq != *there.LastSeq && err == nil {
			y, err = its(seq)
		}
		return err == nil && x != y, err
	})
	switch {
	case differ:
		there.OK, there.FirstBad = new(false), &first
		there.Error = fmt.Sprintf("from there on its hashes differ from those of %s", here.Node)
		if err != nil {
			there.Error = fmt.Sprintf("its hashes differ from those of %s there, and perhaps before: where it begins could not be found: %v", here.Node, err)
		}
	case err != nil:
		there.OK, there.Error = nil, fmt.Sprintf("not compared with the replica of %s: %v", here.Node, err)
	}
	return there
}

// firstDifference is the first seq from oldest to last at which two replicas differ, if they do at the last. With an error it is one
// at which they do, if found.
func firstDifference(oldest, last uint64, differ func(seq uint64) (bool, error)) (first uint64, found bool, err error) {
	found, err = differ(last)
	for first = last; found && err == nil && oldest < first; {
		middle := oldest + (first-oldest)/2
		var there bool
		switch there, err = differ(middle); {
		case err != nil:
		case there:
			first = middle
		default:
			oldest = middle + 1
		}
	}
	return first, found, err
}

// hashesOf reads the running hashes of a replica. What it has only just got it does not hand out yet: that is waited for.
func hashesOf(ctx context.Context, p eventlog.Puller) func(seq uint64) (string, error) {
	return func(seq uint64) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, answerWait)
		defer cancel()
		for {
			got, err := p.Fetch(ctx, seq-1, 1)
			if err != nil {
				return "", err
			}
			if len(got) > 0 && got[0].Seq == seq {
				return got[0].Hash.String(), nil
			}
			if !pause(ctx, 50*time.Millisecond) {
				return "", fmt.Errorf("seq %d is not to be had from it", seq)
			}
		}
	}
}
