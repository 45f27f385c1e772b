package leader

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// tellingsKept bounds what is remembered while this node is behind. The library's calls come one at a time, so that a sound
// follower has applied what one told it when the next comes.
const tellingsKept = 16

// told remembers when a coordinator said how far the log is committed: a copy that has come as far as that is as new as the
// ring's state was then. Heartbeats say nothing of it and prove nothing: a follower that cannot store what it is sent, for
// want of space, goes on hearing them while its copy stands still.
type told struct {
	mu     sync.Mutex
	newest time.Time // when it was said what has been applied since
	ahead  []telling // in order of arrival: more than was applied
	most   uint64    // that was ever told
}

type telling struct {
	commit uint64
	at     time.Time
}

// hear takes note of a call. One of an older term is refused by the library.
func (t *told) hear(command any, r *raft.Raft) {
	a, ok := command.(*raft.AppendEntriesRequest)
	if !ok || a.LeaderCommitIndex == 0 || r == nil || a.Term < r.CurrentTerm() {
		return
	}
	t.note(telling{a.LeaderCommitIndex, time.Now()}, r.AppliedIndex())
}

func (t *told) note(n telling, applied uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// A sign goes its own way and may be overtaken by a later call: it says nothing of now.
	if n.commit < t.most {
		return
	}
	t.most = n.commit
	if t.settle(applied); len(t.ahead) == tellingsKept {
		t.ahead = t.ahead[:tellingsKept-1]
	}
	t.ahead = append(t.ahead, n)
}

// spoke says that this node itself coordinated at a moment, with all applied that was committed by then.
func (t *told) spoke(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at.After(t.newest) {
		t.newest = at
	}
}

// asOf is when a coordinator last said what a copy holds that has come up to applied; zero if none has.
func (t *told) asOf(applied uint64) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settle(applied)
	return t.newest
}

func (t *told) settle(applied uint64) {
	for i := len(t.ahead) - 1; i >= 0; i-- {
		if t.ahead[i].commit <= applied { // what was said before it says less
			t.newest = t.ahead[i].at
			t.ahead = append(t.ahead[:0], t.ahead[i+1:]...)
			return
		}
	}
}
