package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ringagent/ringagent/agent/worker"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/rating"
	"github.com/ringagent/ringagent/internal/ring"
)

// belongs says what speaks against an output being the answer to a claim, though it is good of its kind. It makes loud what
// would do harm in silence: games of another config, which are gathered all the same, since no finished game is thrown away,
// and matches that do not name the candidate, which would be rated under a name of their own and never be found by whoever
// decides on the candidate.
func belongs(ctx context.Context, c worker.Claim, out proc.Artifact) error {
	switch ring.Kind(out.Kind) {
	case ring.KindPack:
		n, err := gamedb.Count(ctx, out.Path)
		if err != nil {
			return err
		}
		if have := n.Configs[c.Config].Games; have == 0 && n.Games > 0 {
			return fmt.Errorf("its games are of %s; board_type and num_players should make %s",
				strings.Trim(fmt.Sprint(slices.Sorted(maps.Keys(n.Configs))), "[]"), c.Config)
		}
	case ring.KindMatches:
		candidate := string(c.Inputs["candidate"])
		ms, err := rating.ReadMatches(out.Path)
		if err != nil || candidate == "" {
			return err
		}
		return ofCandidate(ms, c.Config, candidate)
	}
	return nil
}

func ofCandidate(ms []rating.Match, c id.Config, candidate string) error {
	if twice := rating.Repeated(ms); twice != "" {
		return fmt.Errorf("two matches have the id %.40q; an id is unique in the ring, such as the work item's with a number behind it", twice)
	}
	named := false
	for i, m := range ms {
		if id.Config(m.Config) != c {
			return fmt.Errorf("match %d is of %s; this job measures %s", i+1, m.Config, c)
		}
		named = named || m.A == candidate
	}
	if !named && len(ms) > 0 {
		return fmt.Errorf("no match has the measured model as a: it is %.40q there; write the SHA-256 of the file {model}, %s", ms[0].A, candidate)
	}
	return nil
}
