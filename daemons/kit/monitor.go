package kit

import (
	"context"
	"errors"
	"fmt"

	"github.com/ringagent/ringagent/eventlog/event"
)

// Monitor samples, and tells of a change once it has lasted. Levels are ordered: 0 is good, higher is worse.
type Monitor struct {
	Wake   []event.Type
	Sample func(ctx context.Context) ([]Reading, error)
	// Changed is called once for each change that has lasted; an error makes the change be told again.
	Changed func(ctx context.Context, r Reading, from int) error
	Worse   int // readings in a row before a subject counts as worse; default 1
	Better  int // before it counts as better; default 2
}

// Reading is one subject's level now.
type Reading struct {
	Key     string
	Level   int
	Reasons []string
}

// NewMonitor makes a daemon of m.
func NewMonitor(env Env, m Monitor) Daemon {
	edges := Edges{Worse: max(1, m.Worse), Better: m.Better}
	if edges.Better <= 0 {
		edges.Better = 2
	}
	return NewLoop(env, Loop{Wake: m.Wake, Step: func(ctx context.Context) error {
		readings, err := m.Sample(ctx)
		if err != nil {
			return fmt.Errorf("sample: %w", err)
		}
		var errs []error
		for _, c := range edges.Feed(readings) {
			if err := m.Changed(ctx, c.Reading, c.From); err != nil {
				edges.Undo(c)
				errs = append(errs, fmt.Errorf("tell of %s: %w", c.Key, err))
			}
		}
		return errors.Join(errs...)
	}})
}

// Edges turns noisy readings into changes: a level counts when it has been read Worse (or Better) times in a row. A new
// subject begins at level 0; one that is no longer read is forgotten. Not safe for concurrent use.
type Edges struct {
	Worse, Better int
	subjects      map[string]*subject
}

type subject struct{ level, next, seen int }

// Change is a level that has settled.
type Change struct {
	Reading
	From int
}

// Feed takes one reading of all subjects and returns the changes.
func (e *Edges) Feed(readings []Reading) []Change {
	old := e.subjects
	e.subjects = make(map[string]*subject, len(readings))
	var out []Change
	for _, r := range readings {
		s := old[r.Key]
		if s == nil {
			s = &subject{}
		}
		e.subjects[r.Key] = s
		if r.Level == s.level {
			s.seen = 0
			continue
		}
		// Two different bad levels in a row are both worse: the milder one is then certain.
		if s.seen > 0 && (s.next > s.level) == (r.Level > s.level) {
			s.seen++
		} else {
			s.seen = 1
		}
		s.next = r.Level
		need := e.Better
		if r.Level > s.level {
			need = e.Worse
		}
		if s.seen >= need {
			out = append(out, Change{Reading: r, From: s.level})
			s.level, s.seen = r.Level, 0
		}
	}
	return out
}

// Undo takes a change back, so that the next readings bring it again.
func (e *Edges) Undo(c Change) {
	if s := e.subjects[c.Key]; s != nil {
		s.level, s.seen = c.From, 1<<20
		s.next = c.Level
	}
}

// Level is a subject's settled level.
func (e *Edges) Level(key string) int {
	if s := e.subjects[key]; s != nil {
		return s.level
	}
	return 0
}
