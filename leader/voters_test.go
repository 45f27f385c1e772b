package leader

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/internal/id"
)

// seats reads "a b! c? d:": ! is a voter that is dead, ? a non-voter that is ready, : one that is not; a~ is a voter silent
// for 11 minutes, a- one that left.
func seats(s string) []chair {
	var out []chair
	for _, f := range strings.Fields(s) {
		c := chair{Node: id.Node(f[:1]), Voter: true, Domain: f[:1]}
		switch f[1:] {
		case "!":
			c.Silent = 40 * time.Second
		case "~":
			c.Silent = 11 * time.Minute
		case "-":
			c.Gone = true
		case "?":
			c.Voter, c.Ready = false, time.Minute
		case ":":
			c.Voter, c.Ready = false, time.Second
		case ":!":
			c.Voter, c.Silent = false, 40*time.Second
		}
		out = append(out, c)
	}
	return out
}

func show(plan []change) string {
	var b strings.Builder
	for _, c := range plan {
		sign := map[changeKind]string{addNonvoter: "*", promote: "+", remove: "-"}[c.Kind]
		fmt.Fprintf(&b, "%s%s ", sign, c.Node)
	}
	return strings.TrimSpace(b.String())
}

func TestPlanVoters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, seats string
		spares      []id.Node
		target      int
		want        string
	}{
		{"a ring of one stays", "a", nil, 5, ""},
		{"newcomers are added without a vote", "a", []id.Node{"b", "c"}, 5, "*b *c"},
		{"one ready is not enough", "a b? c:", nil, 5, ""},
		{"two at once", "a b? c?", nil, 5, "+b +c"},
		{"one to five", "a b? c? d? e?", nil, 5, "+b +c +d +e"},
		{"only up to the target", "a b? c? d? e?", nil, 3, "+b +c"},
		{"three to five", "a b c d? e?", nil, 5, "+d +e"},
		{"interrupted at two", "a b c?", nil, 5, "+c"},
		{"interrupted at four", "a b c d e?", nil, 5, "+e"},
		{"at four without a spare it stays", "a b c d", nil, 5, ""},
		{"a substitute", "a b c d e! f?", nil, 5, "+f -e"},
		{"a substitute of three", "a b c! d?", nil, 3, "+d -c"},
		{"interrupted substitute", "a b c d e! f", nil, 5, "-e"},
		{"no spare: it stays", "a b c d e!", nil, 5, ""},
		{"no spare that is ready: it stays", "a b c d e! f:", nil, 5, ""},
		{"two dead, one spare", "a b c d! e! f?", nil, 5, "+f -d"},
		{"two dead, two spares", "a b c d! e! f? g?", nil, 5, "+f -d +g -e"},
		{"two dead wait", "a b c d! e!", nil, 5, ""},
		{"two dead for long go together", "a b c d~ e~", nil, 5, "-d -e"},
		{"one of them not for long", "a b c d! e~", nil, 5, ""},
		{"interrupted at four with two dead", "a b c! d!", nil, 5, "-c"},
		{"never below three", "a b c!", nil, 1, ""},
		{"one of three stays", "a b c~", nil, 5, ""},
		{"who left goes first", "a b c d- e! f?", nil, 5, "+f -d"},
		{"dead non-voters go", "a b:!", nil, 5, "-b"},
		{"fewer are wanted", "a b c d e", nil, 3, "-e -d"},
		{"fewer are wanted while one is dead", "a b c d e!", nil, 3, "-e -d"},
		{"fewer are wanted while two are dead", "a b c! d e!", nil, 3, "-c -e"},
		{"fewer are wanted while too many are dead", "a b c! d! e!", nil, 3, ""},
		{"not below three for that", "a b c", nil, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := show(planVoters(roll{Self: "a", Target: c.target, Dead: 30 * time.Second, Stable: 10 * time.Second, Seats: seats(c.seats), Spares: c.spares}))
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestPlanSpreadsOverFailureDomains(t *testing.T) {
	t.Parallel()
	s := seats("a b? c? d?")
	s[0].Domain, s[1].Domain, s[2].Domain, s[3].Domain = "x", "x", "x", "y"
	got := show(planVoters(roll{Self: "a", Target: 3, Dead: time.Minute, Stable: time.Second, Seats: s}))
	if got != "+d +b" {
		t.Errorf("got %q", got)
	}
}

// Whatever the ring looks like: a plan never leaves fewer living voters than a majority, never removes the coordinator,
// never goes below three voters once there, and repeated to its end comes to rest.
func TestPlanIsSafeAndComesToRest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := roll{Self: "a", Target: rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "target"), Dead: 30 * time.Second, Stable: 10 * time.Second}
		marks := []string{"", "", "", "!", "~", "-", "?", "?", ":", ":!"}
		text := "a"
		for i := range rapid.IntRange(0, 7).Draw(t, "others") {
			text += fmt.Sprintf(" %c%s", 'b'+i, rapid.SampledFrom(marks).Draw(t, "mark"))
		}
		r.Seats = seats(text)
		for round := 0; ; round++ {
			plan := planVoters(r)
			if len(plan) == 0 {
				break
			}
			if round > 10 {
				t.Fatalf("%s: no rest: %s", text, show(plan))
			}
			start, _ := count(r.Seats)
			for _, c := range plan {
				before, _ := count(r.Seats)
				var next []chair
				for _, s := range r.Seats {
					if s.Node == c.Node {
						if c.Kind == remove {
							if s.Node == "a" {
								t.Fatalf("%s: %s removes the coordinator", text, show(plan))
							}
							continue
						}
						s.Voter = true
					}
					next = append(next, s)
				}
				r.Seats = next
				after, alive := count(next)
				if start >= 3 && after < 3 {
					t.Fatalf("%s: %s leaves %d voters", text, show(plan), after)
				}
				if c.Kind == remove && after < before && alive < after/2+1 {
					t.Fatalf("%s: %s leaves %d living of %d", text, show(plan), alive, after)
				}
			}
		}
	})
}

func count(seats []chair) (voters, alive int) {
	for _, s := range seats {
		if s.Voter {
			voters++
			if !s.Gone && s.Silent == 0 {
				alive++
			}
		}
	}
	return voters, alive
}
