package evaluation

import (
	"fmt"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/rating"
)

// The baselines whose games decide on a promotion, as {opponents} names them.
const (
	baselineRandom    = "random"
	baselineHeuristic = "heuristic"
)

// Rates are scores (draws half) that a candidate must reach against the two baselines.
type Rates struct {
	Random    float64 `json:"random"`
	Heuristic float64 `json:"heuristic"`
}

// PromotionSettings are the figures of AUTO_PROMOTION. Rates are by number of players, "2" to "4".
type PromotionSettings struct {
	MinGames      int              `json:"min_games"`      // against each baseline
	ChampionGames int              `json:"champion_games"` // against the champion
	First         map[string]Rates `json:"first"`          // for a config that has no champion
	Floor         map[string]Rates `json:"floor"`          // for whoever beats the champion
	Champion      float64          `json:"champion"`       // score against the champion
}

// Validate implements kit's check.
func (s PromotionSettings) Validate() error {
	if s.MinGames < 1 || s.ChampionGames < 1 || s.Champion < 0 || s.Champion > 1 {
		return fmt.Errorf("min_games and champion_games must be above 0, champion between 0 and 1")
	}
	for name, byPlayers := range map[string]map[string]Rates{"first": s.First, "floor": s.Floor} {
		for _, players := range []string{"2", "3", "4"} {
			r, ok := byPlayers[players]
			if !ok || r.Random < 0 || r.Random > 1 || r.Heuristic < 0 || r.Heuristic > 1 {
				return fmt.Errorf("%s.%s: want random and heuristic between 0 and 1", name, players)
			}
		}
	}
	return nil
}

// Gate is one condition and what was measured.
type Gate struct {
	Name              string
	Actual, Threshold float64
}

// OK says whether the gate is passed.
func (g Gate) OK() bool { return g.Actual >= g.Threshold }

// Gates measures a candidate by its matches, each counted once. Champion is "" where there is none. The first gate that is
// not passed decides; none means promotion.
func (s PromotionSettings) gates(c id.Config, candidate, champion id.Digest, matches []rating.Match) []Gate {
	scores := tally(c, string(candidate), matches)
	rates := s.First[fmt.Sprint(min(max(c.Players(), 2), 4))]
	if champion != "" {
		rates = s.Floor[fmt.Sprint(min(max(c.Players(), 2), 4))]
	}
	random, heuristic := scores[baselineRandom], scores[baselineHeuristic]
	out := []Gate{
		{"games_random", float64(random.games), float64(s.MinGames)},
		{"games_heuristic", float64(heuristic.games), float64(s.MinGames)},
		{"score_random", random.rate(), rates.Random},
		{"score_heuristic", heuristic.rate(), rates.Heuristic},
	}
	if champion != "" {
		// Games against a former champion are none against this one: the candidate is judged by who reigns now.
		against := scores[string(champion)]
		out = append(out, Gate{"games_champion", float64(against.games), float64(s.ChampionGames)},
			Gate{"score_champion", against.rate(), s.Champion})
	}
	return out
}

type score struct {
	games  int
	points float64
}

func (s score) rate() float64 {
	if s.games == 0 {
		return 0
	}
	return s.points / float64(s.games)
}

// tally counts a model's matches in a config by opponent, from the model's side.
func tally(c id.Config, model string, matches []rating.Match) map[string]score {
	out := map[string]score{}
	for _, m := range rating.Distinct(matches) {
		opponent, points := m.B, m.Score
		if m.B == model {
			opponent, points = m.A, 1-m.Score
		} else if m.A != model {
			continue
		}
		if id.Config(m.Config) != c {
			continue
		}
		s := out[opponent]
		out[opponent] = score{s.games + 1, s.points + points}
	}
	return out
}
