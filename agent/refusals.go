package agent

import (
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
)

// refusalNews is after how long the same refusal is worth another line in the log.
const refusalNews = time.Minute

// refusals keeps the log of a node that others refuse readable, and its disk from running full: every one of them says the
// same at each call, for as long as the agent runs.
type refusals struct {
	mu   sync.Mutex
	said map[id.Node]toldOff
}

type toldOff struct {
	code mesh.Code
	at   time.Time
}

// news says whether a refusal is to be told.
func (r *refusals) news(by id.Node, code mesh.Code, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.said[by]; ok && last.code == code && now.Sub(last.at) < refusalNews {
		return false
	}
	if r.said == nil {
		r.said = map[id.Node]toldOff{}
	}
	r.said[by] = toldOff{code, now}
	return true
}
