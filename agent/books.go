package agent

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/worker"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/workload"
)

// alarmBook holds what an operator should look at, until it is over.
type alarmBook struct {
	mu  sync.Mutex
	all map[string]api.Alarm
}

func (b *alarmBook) raise(code, message string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all == nil {
		b.all = map[string]api.Alarm{}
	}
	since := time.Now().UTC()
	if old, ok := b.all[code]; ok {
		since = old.Since
	}
	b.all[code] = api.Alarm{Code: code, Message: message, Since: since}
}

func (b *alarmBook) clear(code string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.all, code)
}

// replace has the book hold what is wrong now and nothing else. What was wrong before has begun when it did.
func (b *alarmBook) replace(now []api.Alarm) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[string]api.Alarm, len(now))
	for _, al := range now {
		if old, ok := b.all[al.Code]; ok {
			al.Since = old.Since
		}
		all[al.Code] = al
	}
	b.all = all
}

func (b *alarmBook) list() []api.Alarm {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := []api.Alarm{}
	for _, a := range b.all {
		out = append(out, a)
	}
	return out
}

const alarmRaftDamaged = "raft_damaged"

// alarmList is the book, and what else is wrong with this node now.
func (a *Agent) alarmList() []api.Alarm {
	all := append(a.alarms.list(), failingJobs(a.worker.Snapshot().Failing)...)
	if since, cause := a.leader.Damage(); cause != nil {
		all = append(all, api.Alarm{Code: alarmRaftDamaged, Since: since.UTC(), Message: fmt.Sprintf(
			"this voter's files in %s cannot be used (%v): a majority of the voters has to take its place back. The only voter of a ring needs them back from a copy, with this agent stopped",
			a.dir.path("raft"), cause)})
	}
	if files, games, since := a.store.nowhere(); files > 0 {
		all = append(all, api.Alarm{Code: "copies_lost", Since: since.UTC(), Message: fmt.Sprintf(
			"%d artifacts, with %d games in them, have no copy any more, this node's were the last: ringagent data under-replicated lists them", files, games)})
	}
	slices.SortFunc(all, func(x, y api.Alarm) int { return strings.Compare(x.Code, y.Code) })
	return all
}

// failingJobs is one alarm for all types that come to nothing here, or none.
func failingJobs(failing []worker.Failing) []api.Alarm {
	if len(failing) == 0 {
		return nil
	}
	al := api.Alarm{Code: "jobs_failing", Since: failing[0].Since.UTC()}
	var types []string
	for _, f := range failing {
		types = append(types, fmt.Sprintf("%s (%s)", f.Type, f.Reason))
		if f.Since.Before(al.Since) {
			al.Since = f.Since.UTC()
		}
	}
	al.Message = fmt.Sprintf("jobs come to nothing on this node again and again: %s; the log and ringagent work list tell more", strings.Join(types, ", "))
	return []api.Alarm{al}
}

// healthBook holds this node's own verdict.
type healthBook struct {
	mu  sync.Mutex
	now kit.Health
	set bool
}

func (b *healthBook) put(h kit.Health) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now, b.set = h, true
}

func (b *healthBook) get() (kit.Health, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now, b.set
}

// parsedWorkload keeps the parsed form of the workload of one version of the settings.
type parsedWorkload struct {
	mu      sync.Mutex
	version uint64
	w       *workload.Workload
}
