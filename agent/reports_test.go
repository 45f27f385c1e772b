package agent

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
)

// What another node says of itself is kept and added up: it may be neither huge nor nonsense.
func TestReportsAreBounded(t *testing.T) {
	t.Parallel()
	m := aloneMesh(t)
	configs := func(n int, games int64) map[id.Config]int64 {
		out := map[id.Config]int64{}
		for i := range n {
			out[id.Config(fmt.Sprintf("c%d", i))] = games
		}
		return out
	}
	var said report
	m.Handle(methodReport, mesh.Everybody, func(context.Context, *mesh.Request) (any, error) { return said, nil })
	for name, c := range map[string]struct {
		report report
		good   bool
	}{
		"as ever":       {report{Health: "ok", PerConfig: configs(3, 17)}, true},
		"many":          {report{PerConfig: configs(reportConfigs, reportGames)}, true},
		"too many":      {report{PerConfig: configs(reportConfigs+1, 1)}, false},
		"more than all": {report{PerConfig: configs(1, reportGames+1)}, false},
		"less than no":  {report{PerConfig: configs(1, -1)}, false},
		"too long":      {report{Reasons: []string{strings.Repeat("x", reportBytes)}}, false},
	} {
		said = c.report
		got, err := new(reportBook).ask(t.Context(), m, m.ID())
		if (err == nil) != c.good || err != nil && !mesh.IsCode(err, mesh.CodeInvalid) || len(got.PerConfig) != len(c.report.PerConfig) && c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
