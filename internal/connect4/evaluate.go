package connect4

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/rating"
)

// Defaults of an evaluation, in games.
const (
	DefaultMinGames      = 50
	DefaultMaxGames      = 200
	DefaultChampionGames = 100
)

// The sequential test asks of each opponent whether the candidate is stronger than it by this many Elo points, or not.
const (
	notStronger, stronger = 0, 50
	testError             = 0.05
)

// EvaluateOptions say whom to measure against whom.
type EvaluateOptions struct {
	Model     string   // the candidate's model file; "" measures the untrained network
	Opponents []string // baselines, or Untrained: the same search with the untrained network
	Champion  string   // model file of the champion; "" if there is none
	Out       string   // JSON lines, one rating.Match each
	Seed      uint64
	// Simulations per move of the candidate and the champion; 0 is the network alone.
	Simulations int
	// MinGames are always played against each opponent, the champion too, MaxGames at most against a baseline and ChampionGames
	// at most against the champion, if they are more; in between the sequential test decides. Rounded up to whole pairs.
	MinGames, MaxGames, ChampionGames int
	Progress                          io.Writer        // gets lines "games=N" and one "opponent=…" for each opponent
	Now                               func() time.Time // nil is time.Now
}

// Score is what the games against one opponent came to, as the candidate sees it.
type Score struct {
	Opponent            string // baseline's name or champion's digest
	Wins, Draws, Losses int
	Verdict             string // of the sequential test, as rating.Verdict prints it
}

// Games returns how many games were played.
func (s Score) Games() int { return s.Wins + s.Draws + s.Losses }

// Rate returns the share of points, from 0 to 1; draws count half.
func (s Score) Rate() float64 {
	return (float64(s.Wins) + float64(s.Draws)/2) / float64(max(1, s.Games()))
}

// EvaluateResult is what an evaluation came to.
type EvaluateResult struct {
	Digest string // the candidate's, or Untrained
	Scores []Score
	Games  int
	// Elo is what these matches alone say, with the baselines pinned. Without a baseline it hangs in the air.
	Elo float64
}

// pins are the ratings of the baselines.
func pins() map[string]float64 {
	return map[string]float64{BaselineRandom: 400, BaselineHeuristic: 1200, BaselineMinimax: 1400}
}

type opponent struct {
	name     string
	player   player
	min, max int // pairs
}

// Evaluate plays the candidate against each opponent in pairs of games that share an opening and swap colours. It writes
// the matches when all are played, whole or not at all. The same options give the same games.
func Evaluate(ctx context.Context, o EvaluateOptions) (EvaluateResult, error) {
	net, digest, err := networkOf(o.Model)
	if err != nil {
		return EvaluateResult{}, err
	}
	r := EvaluateResult{Digest: digest}
	opponents, err := o.opponents(digest)
	if err != nil {
		return r, err
	}
	now := o.Now
	if now == nil {
		now = time.Now
	}
	candidate := searcher(net, o.Simulations)
	report := newReporter(o.Progress, now)
	var matches []rating.Match
	for _, opp := range opponents {
		score, err := o.play(ctx, digest, candidate, opp, func(m rating.Match) {
			m.Time, m.Config = now().UTC(), ConfigKey
			matches = append(matches, m)
			r.Games++
			report.at("games=%d\n", r.Games, false)
		})
		if err != nil {
			return r, fmt.Errorf("evaluate against %s: %w", opp.name, err)
		}
		r.Scores = append(r.Scores, score)
		if o.Progress != nil {
			_, _ = fmt.Fprintf(o.Progress, "opponent=%s games=%d wins=%d draws=%d losses=%d score=%.3f verdict=%q\n",
				score.Opponent, score.Games(), score.Wins, score.Draws, score.Losses, score.Rate(), score.Verdict)
		}
	}
	report.at("games=%d\n", r.Games, true)
	r.Elo = rating.Fold(matches, pins())[digest].Elo
	return r, rating.WriteMatches(o.Out, matches)
}

func (o *EvaluateOptions) opponents(candidate string) ([]opponent, error) {
	least := cmp.Or(o.MinGames, DefaultMinGames)
	most, champion := max(least, cmp.Or(o.MaxGames, DefaultMaxGames)), max(least, cmp.Or(o.ChampionGames, DefaultChampionGames))
	if least < 2 || most > maxOpenings || champion < 2 || champion > maxOpenings {
		return nil, usagef("%d to %d games a baseline, %d against the champion, want 2 to %d", least, most, champion, maxOpenings)
	}
	pairs := func(games int) int { return (games + 1) / 2 }
	var list []opponent
	for _, name := range o.Opponents {
		p, err := o.opponent(name)
		if err != nil {
			return nil, usagef("%v", err)
		}
		if name == candidate {
			return nil, usagef("%s against itself", name)
		}
		if slices.ContainsFunc(list, func(x opponent) bool { return x.name == name }) {
			return nil, usagef("opponent %s is there twice", name)
		}
		list = append(list, opponent{name, p, pairs(least), pairs(most)})
	}
	if o.Champion != "" {
		m, err := LoadModel(o.Champion)
		if err != nil {
			return nil, err
		}
		if m.Digest == candidate {
			return nil, usagef("candidate and champion are the same model")
		}
		list = append(list, opponent{m.Digest, searcher(m.Net, o.Simulations), pairs(least), pairs(champion)})
	}
	if len(list) == 0 {
		return nil, usagef("no opponents")
	}
	return list, nil
}

func (o *EvaluateOptions) opponent(name string) (player, error) {
	if name == Untrained {
		return searcher(NewNetwork(0), o.Simulations), nil
	}
	return baseline(name)
}

// play plays pairs against one opponent until the sequential test is decided or the games are used up.
func (o *EvaluateOptions) play(ctx context.Context, digest string, candidate player, opp opponent, each func(rating.Match)) (Score, error) {
	s := Score{Opponent: opp.name}
	test := rating.NewSPRT(notStronger, stronger, testError, testError)
	openings := newOpenings(o.Seed)
	for pair := 0; pair < opp.max && (pair < opp.min || test.Verdict() == rating.Continue); pair++ {
		start, opening := openings.next()
		var points float64
		for colour := range 2 {
			players := [2]player{candidate, opp.player}
			if colour == 1 {
				players = [2]player{opp.player, candidate}
			}
			end, err := playOut(ctx, start, players, newRand(o.Seed, streamGames, uint64(2*pair+colour)))
			if err != nil {
				return s, err
			}
			score := candidateScore(start, end, colour)
			s.count(score)
			points += score
			each(rating.Match{
				ID: matchID(digest, opp.name, opening, colour, o.Simulations, o.Seed),
				A:  digest, B: opp.name, Score: score, Opening: opening,
			})
		}
		if err := test.Add(points); err != nil {
			return s, fmt.Errorf("count pair %d: %w", pair+1, err)
		}
	}
	s.Verdict = test.Verdict().String()
	return s, nil
}

// candidateScore is what the candidate got of a game that began at start, where it moved first (colour 0) or second (1).
func candidateScore(start, end Position, colour int) float64 {
	winner, _ := end.Over()
	switch {
	case winner == 0:
		return 0.5
	case (winner == start.Player()) == (colour == 0):
		return 1
	}
	return 0
}

func (s *Score) count(score float64) {
	switch score {
	case 1:
		s.Wins++
	case 0:
		s.Losses++
	default:
		s.Draws++
	}
}

// playOut plays a game to its end; players[0] moves first.
func playOut(ctx context.Context, p Position, players [2]player, rng *rand.Rand) (Position, error) {
	for turn := 0; ; turn++ {
		if _, over := p.Over(); over {
			return p, nil
		}
		if err := ctx.Err(); err != nil {
			return p, err
		}
		p = p.Play(players[turn%2](p, rng))
	}
}

// matchID names a match by what decides it, so that a match that is reported twice counts once.
func matchID(candidate, opponent, opening string, colour, simulations int, seed uint64) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%d\n%d\n%d\n", candidate, opponent, opening, colour, simulations, seed))
	return "c4m-" + hex.EncodeToString(sum[:16])
}
