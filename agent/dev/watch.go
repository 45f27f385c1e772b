package dev

import (
	"context"
	"fmt"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
)

// Summary is what a dev ring leaves behind.
type Summary struct {
	Seconds     float64            `json:"seconds"`
	Games       int64              `json:"games"`
	Generations int                `json:"generations"`
	Promotions  int                `json:"promotions"`
	Promoted    []id.Digest        `json:"promoted"`
	Ratings     map[string]float64 `json:"ratings"`
}

// picture is what can be seen from outside at one moment.
type picture struct {
	coordinator string
	games       int64
	datasets    int
	models      []api.Model // every version, oldest first
	ratings     []api.Rating
	alive       int
}

// watch shows how the ring goes until ctx ends.
func (r *running) watch(ctx context.Context) {
	t := time.NewTicker(3 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now, ok := r.look(ctx)
		if !ok {
			r.say("no agent answers")
			continue
		}
		r.tell(now)
		r.last = now
	}
}

// tell prints what is new, and a line of figures.
func (r *running) tell(now picture) {
	if now.coordinator != r.last.coordinator {
		r.say("%s coordinates", orNone(now.coordinator))
	}
	for _, m := range now.models[min(len(r.last.models), len(now.models)):] {
		elo := "unrated"
		if m.Elo != nil {
			elo = fmt.Sprintf("Elo %.0f", *m.Elo)
		}
		r.say("PROMOTED version %d of %s: %s, %s", m.Version, m.Config, m.SHA256.Short(), elo)
	}
	line := fmt.Sprintf("games %d, datasets %d, promotions %d, %d nodes alive", now.games, now.datasets, len(now.models), now.alive)
	if now.games != r.last.games || len(now.models) != len(r.last.models) || now.alive != r.last.alive {
		r.say("%s", line)
	}
}

func orNone(s string) string {
	if s == "" {
		return "nobody"
	}
	return s
}

// look asks the first agent that answers and knows what the ring holds. Where all that answer were started anew since a coordinator
// was heard, the figures stay those of the last look.
func (r *running) look(ctx context.Context) (picture, bool) {
	found := false
	p := picture{}
	for _, n := range r.nodes {
		if _, alive := holder(n.DataDir); !alive {
			continue
		}
		now, err := r.ask(ctx, n)
		if err == nil {
			return now, true
		}
		if !found && api.AsError(err).Code == api.CodeNoQuorum {
			p, found = r.last, true
			p.coordinator, p.alive = now.coordinator, now.alive
		}
	}
	return p, found
}

func (r *running) ask(ctx context.Context, n Node) (picture, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var p picture
	c := r.client(n)
	var s api.Status
	if err := c.Get(ctx, "/api/v1/status", nil, &s); err != nil {
		return p, err
	}
	if s.Coordinator != nil {
		p.coordinator = *s.Coordinator
	}
	p.alive = s.Members["alive"]
	var g api.Games
	if err := c.Get(ctx, "/api/v1/games", nil, &g); err != nil {
		return p, err
	}
	for _, row := range g.Configs {
		p.games += row.Games
	}
	var a api.Artifacts
	if err := c.Get(ctx, "/api/v1/artifacts", map[string][]string{"kind": {"dataset"}}, &a); err != nil {
		return p, err
	}
	p.datasets = len(a.Artifacts)
	var m api.Models
	if err := c.Get(ctx, "/api/v1/models", map[string][]string{"history": {"true"}}, &m); err != nil {
		return p, err
	}
	p.models = m.Models
	var rs api.Ratings
	if err := c.Get(ctx, "/api/v1/ratings", nil, &rs); err != nil {
		return p, err
	}
	p.ratings = rs.Ratings
	return p, nil
}

// summary is the last look, taken while the agents still run.
func (r *running) summary() (Summary, error) {
	p, ok := r.look(context.Background())
	if !ok {
		p = r.last
	}
	s := Summary{
		Seconds: time.Since(r.begin).Seconds(), Games: p.games, Generations: p.datasets, Promotions: len(p.models),
		Promoted: []id.Digest{}, Ratings: map[string]float64{},
	}
	for _, m := range p.models {
		s.Promoted = append(s.Promoted, m.SHA256)
	}
	for _, rating := range p.ratings {
		if rating.Elo != nil {
			s.Ratings[rating.Model] = *rating.Elo
		}
	}
	if len(p.models) == 0 {
		return s, api.Errorf(api.CodeFailed, "nothing was promoted").WithHint("the agents' logs are in " + r.dir + "/n*/agent.log")
	}
	return s, nil
}
