package kit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/eventlog/event"
)

// bell is an Events that only wakes.
type bell struct {
	Events
	ring chan event.Record
}

func (b bell) Wake(context.Context, ...event.Type) <-chan event.Record { return b.ring }

// timed runs l under the fake clock for d and returns when its steps began, since the start.
func timed(t *testing.T, every, d time.Duration, l Loop, bells ...time.Duration) (at []time.Duration, progress int, err error) {
	began := time.Now()
	b := bell{ring: make(chan event.Record, 8)}
	env := Env{Every: every, Events: b, Log: zerolog.Nop(), Progress: func() { progress++ }}
	step := l.Step
	l.Step = func(ctx context.Context) error {
		at = append(at, time.Since(began))
		return step(ctx)
	}
	if len(bells) > 0 {
		l.Wake = []event.Type{"X"}
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	go func() {
		for _, when := range bells {
			time.Sleep(when - time.Since(began))
			select {
			case b.ring <- event.Record{}:
			default: // hints for somebody who has some already
			}
		}
	}()
	err = NewLoop(env, l).Run(ctx)
	return at, progress, err
}

func good(context.Context) error { return nil }

func TestLoopTicksAtOnceAndThenByItsPeriod(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		at, progress, err := timed(t, 10*time.Second, 65*time.Second, Loop{Step: good})
		if err != nil || at[0] != 0 || len(at) < 6 || len(at) > 8 || progress < 6 {
			t.Errorf("%v, %d marks, %v", at, progress, err)
		}
		for i := 1; i < len(at); i++ {
			if d := at[i] - at[i-1]; d < 9*time.Second || d > 11*time.Second {
				t.Errorf("period %v", d)
			}
		}
	})
}

func TestLoopCoalescesWakeUps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var bells []time.Duration
		for i := range 20 { // one each 100 ms, never quiet for 200 ms
			bells = append(bells, time.Second+time.Duration(i)*100*time.Millisecond)
		}
		at, _, _ := timed(t, time.Hour, 10*time.Second, Loop{Step: good, Most: time.Second}, bells...)
		// The first at once, one a second while it rings, one when it is quiet.
		if len(at) < 3 || len(at) > 4 || at[1] != 2*time.Second {
			t.Errorf("steps at %v", at)
		}
	})
}

// A step that takes long is not all that the node does, however often the loop is woken; the period stays what it is.
func TestLoopRestsAfterALongStep(t *testing.T) {
	t.Parallel()
	var bells []time.Duration
	for i := range 590 {
		bells = append(bells, time.Duration(i)*100*time.Millisecond)
	}
	long := func(ctx context.Context) error { sleep(ctx, 3*time.Second); return nil }
	for _, c := range []struct {
		every       time.Duration
		least, most int
	}{{time.Hour, 4, 5}, {5 * time.Second, 7, 9}} {
		synctest.Test(t, func(t *testing.T) {
			at, _, _ := timed(t, c.every, time.Minute, Loop{Step: long, Rest: 4}, bells...)
			if len(at) < c.least || len(at) > c.most {
				t.Errorf("period %v: steps at %v", c.every, at)
			}
		})
	}
}

func TestLoopBacksOffAloneAndRecovers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := 0
		at, progress, err := timed(t, time.Second, 30*time.Second, Loop{Step: func(context.Context) error {
			switch n++; {
			case n == 2:
				panic("deliberate")
			case n < 5:
				return errors.New("deliberate")
			}
			return nil
		}}, 500*time.Millisecond) // a wake-up does not cut a backoff short
		if err != nil || len(at) < 10 || progress != len(at)-4 {
			t.Fatalf("%v, %d marks, %v", at, progress, err)
		}
		for i, want := range []float64{1, 2, 4, 8} {
			if d := (at[i+1] - at[i]).Seconds(); d < 0.9*want || d > 1.1*want {
				t.Errorf("delay %d is %.2f s, want about %.0f", i, d, want)
			}
		}
	})
}

func TestLoopEndsWhenItsEpochIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		at, _, err := timed(t, time.Second, time.Minute, Loop{Step: func(context.Context) error { return fmt.Errorf("put note: %w", ErrStaleEpoch) }})
		if !errors.Is(err, ErrStaleEpoch) || len(at) != 1 {
			t.Errorf("%v after %v", err, at)
		}
	})
}

// A daemon that waits for a quorum is not stuck: it must not be restarted for it.
func TestLoopWithoutCoordinatorIsAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		at, progress, err := timed(t, time.Second, time.Minute, Loop{Step: func(context.Context) error { return ErrNoCoordinator }})
		if err != nil || progress < len(at)-1 || len(at) < 4 {
			t.Errorf("%v, %d marks, %v", at, progress, err)
		}
	})
}

func TestStepsNeverOverlap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		inside, most := 0, 0
		_, _, _ = timed(t, time.Second, 20*time.Second, Loop{Step: func(context.Context) error {
			inside++
			most = max(most, inside)
			time.Sleep(3 * time.Second)
			inside--
			return nil
		}}, time.Second, 2*time.Second, 5*time.Second)
		if most != 1 {
			t.Errorf("%d steps at once", most)
		}
	})
}

type figures struct {
	Games int            `json:"games"`
	Wait  Duration       `json:"wait"`
	Rates map[string]int `json:"rates"`
}

type room struct {
	FreeBytes int64 `json:"free_bytes"`
	Rows      int64 `json:"rows"`
}

// What nobody can mean is refused where settings are written, also in settings that consist of others; a daemon that was given it
// once goes on with it.
func TestSlipsAreRefusedWhereTheyAreWritten(t *testing.T) {
	t.Parallel()
	type both struct {
		figures
		room
	}
	spec := Spec{Name: "X", Settings: both{}}
	for raw, want := range map[string]string{
		`{"every":"1ns"}`:             "every 1ns: want 100ms to 87600h0m0s",
		`{"every":"999999h"}`:         "every 999999h0m0s: want 100ms to 87600h0m0s",
		`{"wait":"-1s"}`:              "wait -1s: must not be negative",
		`{"wait":"999999h"}`:          "wait 999999h0m0s: want at most 87600h0m0s",
		`{"wait":400000000}`:          "wait 111111h6m40s: want at most 87600h0m0s",
		`{"games":1000000001}`:        "games 1000000001: want at most 1000000000",
		`{"rows":999999999999}`:       "rows 999999999999: want at most 1000000000",
		`{"free_bytes":999999999999}`: "",
		`{"every":"100ms","wait":"87600h","games":1000000000}`: "",
	} {
		err := spec.CheckSettings([]byte(raw))
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v; want %q", raw, err, want)
		}
		if _, err := Decode([]byte(raw), both{}); err != nil {
			t.Errorf("%s: a daemon does not go on with it: %v", raw, err)
		}
	}
}

func (f figures) Validate() error {
	if f.Games < 0 {
		return errors.New("games: not negative")
	}
	return nil
}

type rates struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// What a table inside a section does not name keeps its default, as at the top: it must not turn into zero in silence.
func TestDecodeCompletesNestedTables(t *testing.T) {
	t.Parallel()
	type gates struct {
		By   map[string]rates `json:"by"`
		Flat rates            `json:"flat"`
	}
	defaults := gates{By: map[string]rates{"2": {0.5, 0.9}, "3": {0.4, 0.8}}, Flat: rates{1, 2}}
	for _, c := range []struct{ raw, want string }{
		{`{"by":{"2":{"low":0.7}}}`, "{map[2:{0.7 0.9} 3:{0.4 0.8}] {1 2}}"},
		{`{"by":{"2":{"Low":0.7}}}`, "{map[2:{0.7 0.9} 3:{0.4 0.8}] {1 2}}"},
		{`{"by":{"2":null}}`, "{map[2:{0.5 0.9} 3:{0.4 0.8}] {1 2}}"},
		{`{"by":{"5":{"low":0.7}},"flat":{"high":3}}`, "{map[2:{0.5 0.9} 3:{0.4 0.8} 5:{0.7 0}] {1 3}}"},
		{`{"by":{"2":{"lwo":0.7}}}`, `by: unknown field "lwo"`},
	} {
		got, err := Decode([]byte(c.raw), defaults)
		if text := fmt.Sprint(got); err == nil && text != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v; want %s", c.raw, text, err, c.want)
		}
	}
}

// Whoever writes a section must learn from the error which key it is, what it takes, and which keys there are.
func TestDecodeNamesKeyAndMend(t *testing.T) {
	t.Parallel()
	defaults := figures{Games: 50, Wait: Duration(time.Minute), Rates: map[string]int{"2": 1}}
	spec := Spec{Name: "X", Settings: defaults}
	for raw, want := range map[string]string{
		`{"gmaes":7}`:          `unknown field "gmaes"; there are every, enabled, games, wait, rates`,
		`{"games":"many"}`:     "games: want a whole number, not string",
		`{"games":1.5}`:        "games: want a whole number, not number 1.5",
		`{"wait":"soon"}`:      `wait: duration "soon": want such as`,
		`{"rates":[1]}`:        "rates: want a table, not array",
		`{"rates":{"2":true}}`: "rates: want a whole number, not bool",
		`{"every":"soon"}`:     `every: duration "soon": want such as`,
		`{"enabled":"yes"}`:    "enabled: want true or false, not string",
	} {
		if err := spec.CheckSettings([]byte(raw)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v; want %s", raw, err, want)
		}
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	defaults := figures{Games: 50, Wait: Duration(time.Minute), Rates: map[string]int{"2": 1, "3": 2}}
	for _, c := range []struct{ raw, want string }{
		{"", "{50 60000000000 map[2:1 3:2]}"},
		{`{"games":7,"every":"5s","enabled":true}`, "{7 60000000000 map[2:1 3:2]}"},
		{`{"wait":1.5}`, "{50 1500000000 map[2:1 3:2]}"},
		{`{"wait":"2m","rates":{"2":9}}`, "{50 120000000000 map[2:9 3:2]}"},
		{`{"gmaes":7}`, `unknown field "gmaes"`},
		{`{"games":-1}`, "games: not negative"},
		{`{"wait":"soon"}`, `duration "soon"`},
		{`[]`, "decode settings"},
	} {
		got, err := Decode([]byte(c.raw), defaults)
		if text := fmt.Sprint(got); err == nil && text != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v", c.raw, text, err)
		}
	}
	if defaults.Rates["2"] != 1 {
		t.Error("the defaults were changed")
	}
}

func TestEdges(t *testing.T) {
	t.Parallel()
	e := Edges{Worse: 2, Better: 3}
	var told []string
	for i, level := range []int{0, 1, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 2, 1} {
		for _, c := range e.Feed([]Reading{{Key: "x", Level: level}}) {
			told = append(told, fmt.Sprintf("%d:%d>%d", i, c.From, c.Level))
		}
	}
	if got := strings.Join(told, " "); got != "4:0>1 11:1>0 13:0>1" {
		t.Errorf("changes %s", got)
	}
	c := e.Feed([]Reading{{Key: "y", Level: 1}})
	c = append(c, e.Feed([]Reading{{Key: "y", Level: 1}})...)
	e.Undo(c[0])
	if again := e.Feed([]Reading{{Key: "y", Level: 1}}); len(again) != 1 {
		t.Errorf("after an undo %v", again)
	}
	e.Feed(nil)
	if e.Level("y") != 0 {
		t.Error("a subject that is gone is remembered")
	}
}

func TestProgressDeadlineFollowsLongerPeriods(t *testing.T) {
	t.Parallel()
	own := Spec{Every: time.Minute, Deadline: 3 * time.Second}
	none := Spec{Every: 2 * time.Minute}
	for _, c := range []struct {
		s     Spec
		every time.Duration
		want  time.Duration
	}{
		{own, 0, 3 * time.Second}, {own, time.Minute, 3 * time.Second}, {own, 5 * time.Minute, 15 * time.Minute},
		{none, 0, 6 * time.Minute}, {none, time.Second, time.Minute},
	} {
		if got := c.s.ProgressDeadline(c.every); got != c.want {
			t.Errorf("%v every %s: %s, want %s", c.s, c.every, got, c.want)
		}
	}
}
