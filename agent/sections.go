package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/ring"
)

// sectionBook keeps the section of the ring settings with which each daemon was started last.
type sectionBook struct {
	mu  sync.Mutex
	all map[string]json.RawMessage
}

// take reads a daemon's settings for one start of it. The reading is made under the lock: it is either seen by stale or no
// older than what stale has read.
func (b *sectionBook) take(daemon string, read func() ring.Settings) ring.Settings {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := read()
	if b.all == nil {
		b.all = map[string]json.RawMessage{}
	}
	b.all[daemon] = s.Daemons[daemon]
	return s
}

// stale names the daemons that were started with another section, each once.
func (b *sectionBook) stale(read func() ring.Settings) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := read()
	var out []string
	for daemon, section := range b.all {
		if !bytes.Equal(section, s.Daemons[daemon]) {
			b.all[daemon] = s.Daemons[daemon]
			out = append(out, daemon)
		}
	}
	return out
}

// followSettings starts daemons anew whose section of the ring settings has changed. It is not only operators who change
// them: on its first start a node's daemons begin before it knows any settings.
func (a *Agent) followSettings(ctx context.Context) {
	for {
		changed := a.leader.Changes()
		if _, version := a.leader.View().Settings(); version > 0 {
			for _, daemon := range a.sections.stale(a.ringSettings) {
				a.log.Info().Str("daemon", daemon).Msg("daemon starts anew with its new settings")
				if err := a.supervisor.Renew(daemon); err != nil {
					a.log.Warn().Err(err).Str("daemon", daemon).Msg("daemon keeps its old settings")
				}
			}
		}
		select {
		case <-changed:
			// A voter that starts anew goes through every settings that its log has: the last ones count.
			pause(ctx, 50*time.Millisecond)
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) ringSettings() ring.Settings {
	s, _ := a.leader.View().Settings()
	return s
}
