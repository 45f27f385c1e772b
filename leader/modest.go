package leader

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// What nodes may state of themselves and of what they have made. These are the coordinator's limits and not the state machine's,
// which has to take what stands in the log; they keep a rented machine, which may be anybody's, from filling or ending those that
// decide.
const (
	reportRoom = 16 << 10 // bytes of a report: as many labels as a config may have, of full size, take 9 KB
	finishRoom = 64 << 10 // bytes of how a run ended, with what it made: the state keeps a thousand of them
	labelRoom  = 128      // bytes of the name of a counter: that of an opponent is a digest and some words
	packRoom   = 16 << 30 // bytes of a pack, against nonsense: an honest one of long games may be large
	packGames  = 1 << 20  // games of a pack
	outboxes   = 1024     // of one node, which begins another one when it finds its own set back
	clockRoom  = time.Minute
)

// stamped gives a command of an edge node the coordinator's time where its own is another: how long nodes are gone and how old
// things are is reckoned by it.
func (t *term) stamped(from id.Node, c state.Command, data []byte, now time.Time) (state.Command, []byte, error) {
	if m, ok := t.n.machine.View().Member(from); !ok || m.Class == id.Core || now.Sub(c.At).Abs() <= clockRoom {
		return c, data, nil
	}
	c.At = now
	data, err := state.Encode(c)
	return c, data, err
}

// modest says what an edge node's own command asks too much of.
func modest(s *state.State, m ring.Member, c state.Command) error {
	switch {
	case len(c.Once) > onceRoom:
		return tooMuch(fmt.Sprintf("a name of more than %d bytes for its answer", onceRoom))
	case len(c.Events) > 0:
		return tooMuch("events that are placed with it")
	}
	switch b := c.Body.(type) {
	case state.Report:
		if other, ok := s.MemberByName(b.Member.Name); ok && other.ID != m.ID && other.Class == id.Core && !other.Revoked {
			return tooMuch(fmt.Sprintf("the name %s, which is a core node's", b.Member.Name))
		}
		if size, err := json.Marshal(b); err != nil || len(size) > reportRoom {
			return tooMuch(fmt.Sprintf("a report of more than %d bytes", reportRoom))
		}
	case state.AddArtifacts:
		for _, a := range b.Artifacts {
			switch a.Kind {
			case ring.KindPack, ring.KindFile, ring.KindBackup:
			default:
				if !worked(s, m.ID, a) {
					return tooMuch(fmt.Sprintf("a file of kind %s that is no result of its work: bring it into the ring at a core node", a.Kind))
				}
			}
			if what := excess(a); what != "" {
				return tooMuch(what)
			}
		}
	}
	return nil
}

// worked says that a is what a run has made that the node is on. A node says so by itself before its answer if its build is an
// older one.
func worked(s *state.State, node id.Node, a ring.Artifact) bool {
	item, ok := s.Work(a.Labels["work"])
	if !ok || item.Claim == nil || item.Claim.Node != node {
		return false
	}
	got, err := made(item, node, []ring.Artifact{a})
	return err == nil && got[0].Config == a.Config && slices.Equal(got[0].Parents, slices.Sorted(slices.Values(a.Parents)))
}

// excess is what is too much of an artifact's record, or nothing.
func excess(a ring.Artifact) string {
	if y := a.Created.UTC().Year(); y < 0 || y > 9998 {
		return "a file of another age"
	}
	if a.Kind == ring.KindPack && (a.Bytes > packRoom || a.Counters["games"] > packGames || a.Counters["games"] < 0) {
		return fmt.Sprintf("a pack of more than %d GiB or %d games", int64(packRoom)>>30, packGames)
	}
	for k := range a.Counters {
		if len(k) > labelRoom {
			return fmt.Sprintf("a counter whose name has more than %d bytes", labelRoom)
		}
	}
	return ""
}

func tooMuch(what string) error {
	return &Refused{Code: string(state.CodeUnauth), Message: "an edge node may not ask for " + what}
}

// crowded says that a node has begun more outboxes than one ever needs: the state keeps each of them for as long as the node is there.
func crowded(s *state.State, node id.Node, most int) bool {
	n := 0
	for o := range s.Origins() {
		if o.Node == node {
			n++
		}
	}
	return n >= most
}

// made are the records of what a run has made. The node's word counts for their bytes and for what is in them; of what they were made,
// and for which config, the item says.
func made(item ring.WorkItem, from id.Node, list []ring.Artifact) ([]ring.Artifact, error) {
	out := slices.Clone(list)
	for i := range out {
		a := &out[i]
		no := ""
		switch what := excess(*a); {
		case a.Origin != from || !only(a.Holders, from):
			no = "artifact of another node"
		case a.Kind == "" || a.Kind != ring.KindFile && a.Kind != resultOf(item.Type):
			no = fmt.Sprintf("a run of type %s makes no %s", item.Type, a.Kind)
		case what != "":
			no = "its answer holds " + what
		}
		if no != "" { // not for want of a right: the run has failed, and its node is to say so
			return nil, &Refused{Code: string(state.CodeRefused), Message: no}
		}
		a.Config, a.Parents = item.Config, parents(item)
	}
	return out, nil
}

// resultOf is the kind that a type of work is for; that of games is gathered and not told with the answer.
func resultOf(workType string) ring.Kind {
	switch workType {
	case state.TypeExport:
		return ring.KindDataset
	case state.TypeTrain:
		return ring.KindModel
	case state.TypeEvaluate:
		return ring.KindMatches
	}
	return ""
}

// parents are the artifacts that an item's run was given.
func parents(item ring.WorkItem) []id.Digest {
	var out []id.Digest
	measured := slices.ContainsFunc(item.Inputs, func(in ring.Input) bool { return in.Role == state.RoleCandidate })
	for _, in := range item.Inputs {
		if in.Role == state.RoleModel && measured {
			continue // the candidate is in its place
		}
		out = append(out, in.Digest)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
