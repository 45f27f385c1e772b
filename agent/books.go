package agent

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringagent/ringagent/agent/api"
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
	slices.SortFunc(out, func(x, y api.Alarm) int { return strings.Compare(x.Code, y.Code) })
	return out
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
