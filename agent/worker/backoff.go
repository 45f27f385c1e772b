package worker

import (
	"sync"
	"time"
)

// strikesAllowed is how many runs of a type may fail in a row before the node looks at itself as the cause.
const strikesAllowed = 3

// avoidance remembers which types this node should not claim for a while, and why.
type avoidance struct {
	least, most time.Duration
	now         func() time.Time

	mu    sync.Mutex
	types map[string]*avoided
}

type avoided struct {
	since   time.Time // the first of times
	times   int       // how often in a row it was avoided
	strikes int       // failures in a row since then
	until   time.Time
	reason  string
}

func newAvoidance(least, most time.Duration) *avoidance {
	return &avoidance{least: least, most: most, now: time.Now, types: make(map[string]*avoided)}
}

func (a *avoidance) entry(stage string) *avoided {
	if a.types[stage] == nil {
		a.types[stage] = &avoided{}
	}
	return a.types[stage]
}

// fail: the node could not run this type at all. Each time in a row doubles the pause.
func (a *avoidance) fail(stage, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.avoid(a.entry(stage), reason)
}

func (a *avoidance) avoid(e *avoided, reason string) {
	pause := a.least << min(e.times, 30)
	if pause > a.most || pause <= 0 {
		pause = a.most
	}
	if e.times++; e.times == 1 {
		e.since = a.now()
	}
	e.strikes, e.reason, e.until = 0, reason, a.now().Add(pause)
}

// strike: a run of this type failed. Three in a row count as fail.
func (a *avoidance) strike(stage, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.entry(stage)
	if e.strikes++; e.strikes >= strikesAllowed {
		a.avoid(e, reason)
	}
}

// ok: a run of this type succeeded; everything is forgotten.
func (a *avoidance) ok(stage string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.types, stage)
}

// forget gives every type another chance.
func (a *avoidance) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.types)
}

// blocked says whether the type is to be avoided now, and why.
func (a *avoidance) blocked(stage string) (reason string, blocked bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.types[stage]
	if e == nil || !a.now().Before(e.until) {
		return "", false
	}
	return e.reason, true
}

// failing says what keeps a type from being run here and since when, if it has been avoided twice or more without a success
// between. It is said while the type is tried, which tried says, and for twice the longest pause after it may be again.
func (a *avoidance) failing(stage string, tried bool) (f Failing, failing bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.types[stage]
	if e == nil || e.times < 2 || !tried && a.now().After(e.until.Add(2*a.most)) {
		return f, false
	}
	return Failing{Type: stage, Reason: e.reason, Since: e.since}, true
}

// suspect says whether the type failed when it was last tried: then one run at a time has to do, until one succeeds.
func (a *avoidance) suspect(stage string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.types[stage]
	return e != nil && e.times > 0
}
