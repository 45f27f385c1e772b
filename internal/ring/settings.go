package ring

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// Timing names a set of timeouts that belong together.
type Timing string

// The three timings; their figures are Times.
const (
	TimingDev Timing = "dev"
	TimingLAN Timing = "lan"
	TimingWAN Timing = "wan"
)

// Settings are the ring's replicated settings: what a singleton must see alike wherever it runs.
type Settings struct {
	Timing    Timing                     `json:"timing"`
	Voters    int                        `json:"voters"`             // 1, 3 or 5
	Workload  string                     `json:"workload,omitempty"` // the workload file's YAML text
	Configs   []id.Config                `json:"configs,omitempty"`  // a subset of the workload's
	Copies    map[Kind]int               `json:"copies,omitempty"`   // receipts wanted per kind; default 2
	Retention Retention                  `json:"retention"`
	Daemons   map[string]json.RawMessage `json:"daemons,omitempty"` // a daemon's section: its typed settings plus "enabled"
}

// Retention bounds the event log; zero means the default.
type Retention struct {
	Age   Duration `json:"age_seconds,omitempty"`
	Bytes int64    `json:"bytes,omitempty"`
	Count uint64   `json:"count,omitempty"`
}

// CopiesOf is the number of receipts wanted for a kind.
func (s Settings) CopiesOf(k Kind) int {
	if n, ok := s.Copies[k]; ok {
		return n
	}
	return 2
}

// Times are the timeouts of one Timing.
type Times struct {
	Heartbeat     time.Duration // Raft's heartbeat and election timeout
	Lease         time.Duration // of a singleton, counted from when the answered renewal was sent
	Renew         time.Duration // how often it is renewed
	Margin        time.Duration // between a lease's end and a new assignment
	VoterStable   time.Duration // how long a non-voter must be caught up before it votes
	VoterDead     time.Duration // how long a voter must be gone before it is replaced
	HandlerLimit  time.Duration // of one event handler
	HealthExpires time.Duration // after which a reading counts as unknown
}

// Known says whether t is one of the timings that there are.
func (t Timing) Known() bool { return t == TimingDev || t == TimingLAN || t == TimingWAN }

// Times returns the figures of t; unknown timings get those of the LAN.
func (t Timing) Times() Times {
	lan := Times{
		Heartbeat: time.Second, Lease: 4500 * time.Millisecond, Renew: time.Second, Margin: 500 * time.Millisecond,
		VoterStable: 10 * time.Second, VoterDead: 30 * time.Second, HandlerLimit: 10 * time.Minute, HealthExpires: 30 * time.Second,
	}
	switch t {
	case TimingDev:
		lan.VoterStable = 3 * time.Second
		lan.HandlerLimit = 10 * time.Second
	case TimingWAN:
		lan.Heartbeat = 2500 * time.Millisecond
		lan.Lease, lan.Renew, lan.Margin = 15*time.Second, 3*time.Second, 1500*time.Millisecond
		lan.VoterStable, lan.VoterDead = time.Minute, 5*time.Minute
		lan.HealthExpires = 90 * time.Second
	}
	return lan
}

// Validate names the first field that cannot stand, and the mend.
func (s Settings) Validate() error {
	if !s.Timing.Known() {
		return fmt.Errorf("timing %q: want dev, lan or wan", s.Timing)
	}
	switch s.Voters {
	case 1, 3, 5:
	default:
		return fmt.Errorf("voters %d: want 1, 3 or 5", s.Voters)
	}
	for k, n := range s.Copies {
		if n < 1 || n > 9 {
			return fmt.Errorf("copies.%s %d: want 1 to 9", k, n)
		}
	}
	for _, c := range s.Configs {
		if _, err := id.ParseConfig(string(c)); err != nil {
			return fmt.Errorf("configs: %w", err)
		}
	}
	if s.Retention.Age < 0 || s.Retention.Bytes < 0 {
		return fmt.Errorf("retention: age and bytes must not be negative")
	}
	return nil
}

// MarshalJSON writes seconds.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).Seconds()) }

// UnmarshalJSON reads seconds.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s float64
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("duration in seconds: %w", err)
	}
	// Rounded, so that writing and reading again gives the same duration: a restored state must equal a replayed one. What a
	// number too large becomes as an int64 differs between processors, and voters may be of several.
	switch ns := math.Round(s * float64(time.Second)); {
	case ns >= math.MaxInt64:
		*d = math.MaxInt64
	case ns <= math.MinInt64:
		*d = math.MinInt64
	default:
		*d = Duration(ns)
	}
	return nil
}
