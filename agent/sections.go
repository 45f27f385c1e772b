package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
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
	failed := false
	for {
		changed := a.leader.Changes()
		err := a.keepSettings() // again at the next change, if it must be
		if err != nil && !failed {
			a.log.Warn().Err(err).Msg("a start without the ring would go by older settings")
		}
		failed = err != nil
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

// lastSettings are the newest ring settings that this node has known, also before it was started anew. Its daemons go by them until
// the state has some that are as new: not by defaults that nobody wants here.
type lastSettings struct {
	Generation uint64        `json:"generation"`
	Version    uint64        `json:"version"`
	Settings   ring.Settings `json:"settings"`
}

func (l lastSettings) after(o lastSettings) bool {
	return cmp.Or(cmp.Compare(l.Generation, o.Generation), cmp.Compare(l.Version, o.Version)) > 0
}

// settingsKey is their place in state.db.
const settingsKey = "settings"

// readLastSettings reads what was kept. Without it this node knows as little as one that was never in a ring.
func (a *Agent) readLastSettings() {
	raw, ok, err := a.local.shelf("agent").Get(settingsKey)
	if err == nil && !ok {
		return
	}
	var last lastSettings
	if err == nil {
		err = json.Unmarshal(raw, &last)
	}
	if err != nil {
		a.log.Warn().Err(err).Msg("the last ring settings are not known; daemons go by defaults until the ring is heard")
		return
	}
	a.settings.Store(&last)
}

// keepSettings writes newer settings down.
func (a *Agent) keepSettings() error {
	s := a.leader.View()
	now := lastSettings{Generation: s.Generation()}
	now.Settings, now.Version = s.Settings()
	if old := a.settings.Load(); now.Version == 0 || old != nil && !now.after(*old) {
		return nil
	}
	raw, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	if err := a.local.shelf("agent").Put(settingsKey, raw); err != nil {
		return fmt.Errorf("keep settings: %w", err)
	}
	a.settings.Store(&now)
	return nil
}

// ringSettings are those of the state, or newer ones that were kept: a voter that starts goes through all that its log has.
func (a *Agent) ringSettings() ring.Settings {
	s := a.leader.View()
	now := lastSettings{Generation: s.Generation()}
	now.Settings, now.Version = s.Settings()
	if last := a.settings.Load(); last != nil && last.after(now) {
		return last.Settings
	}
	return now.Settings
}
