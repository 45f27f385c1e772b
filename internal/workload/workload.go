package workload

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// Version is the only file version that this package reads.
const Version = 1

// The stages that a workload can describe.
const (
	Selfplay = "selfplay"
	Export   = "export"
	Train    = "train"
	Evaluate = "evaluate"
)

// The kinds of output.
const (
	KindGames   = "games"   // SQLite file with finished games
	KindDataset = "dataset" // NPZ
	KindModel   = "model"   // checkpoint
	KindMatches = "matches" // record of the matches of an evaluation
	KindFile    = "file"    // anything else
)

// Limits of the file and its values.
const (
	MaxFileBytes  = 64 << 10
	MaxLineBytes  = 4 << 10
	MaxTimeout    = 7 * 24 * time.Hour
	DefaultGrace  = 10 * time.Second
	maxGrace      = 10 * time.Minute
	maxFlowDepth  = 32
	maxArgs       = 256
	maxOutputs    = 16
	maxSlotNumber = 1 << 30
)

// Workload is a checked workload file.
type Workload struct {
	Version int
	Name    string
	Configs []id.Config
	// Stages is keyed by stage name; a workload need not have all of them.
	Stages map[string]Stage
}

// Stage says how one kind of work is run and what it owes.
type Stage struct {
	// Argv may hold placeholders; its first element always exists.
	Argv []string
	// Env is added to the inherited allow-list; values may hold placeholders.
	Env map[string]string
	// Dir is the absolute working directory, or "" for the job's output directory.
	Dir   string
	Needs Slots
	// Timeout bounds the whole run.
	Timeout time.Duration
	// NoProgress is the longest time without a larger progress value; 0 means no such deadline.
	NoProgress time.Duration
	// Grace is the time between TERM and KILL.
	Grace time.Duration
	// Progress finds the progress number in a line of output: its first named group. Nil means none.
	Progress *regexp.Regexp
	Outputs  []Output
}

// Slots is what a run takes of a node, or what a node has. CPU and GPU count whole devices, the rest are MiB.
type Slots struct {
	CPU     int64 `json:"cpu" yaml:"cpu"`
	GPU     int64 `json:"gpu" yaml:"gpu"`
	VRAMMiB int64 `json:"vram_mib" yaml:"vram_mib"`
	RAMMiB  int64 `json:"ram_mib" yaml:"ram_mib"`
	DiskMiB int64 `json:"disk_mib" yaml:"disk_mib"`
}

// Add returns s + o, by component.
func (s Slots) Add(o Slots) Slots {
	return Slots{s.CPU + o.CPU, s.GPU + o.GPU, s.VRAMMiB + o.VRAMMiB, s.RAMMiB + o.RAMMiB, s.DiskMiB + o.DiskMiB}
}

// Sub returns s − o, by component; components may become negative.
func (s Slots) Sub(o Slots) Slots {
	return Slots{s.CPU - o.CPU, s.GPU - o.GPU, s.VRAMMiB - o.VRAMMiB, s.RAMMiB - o.RAMMiB, s.DiskMiB - o.DiskMiB}
}

// Positive returns s with 0 for every component that is negative.
func (s Slots) Positive() Slots {
	return Slots{max(0, s.CPU), max(0, s.GPU), max(0, s.VRAMMiB), max(0, s.RAMMiB), max(0, s.DiskMiB)}
}

// Fits says whether s fits into free, in every component that s asks for: a component of zero fits anywhere, also where
// free is negative.
func (s Slots) Fits(free Slots) bool {
	fits := func(need, have int64) bool { return need <= 0 || need <= have }
	return fits(s.CPU, free.CPU) && fits(s.GPU, free.GPU) && fits(s.VRAMMiB, free.VRAMMiB) &&
		fits(s.RAMMiB, free.RAMMiB) && fits(s.DiskMiB, free.DiskMiB)
}

// Output is a file that a run owes.
type Output struct {
	// Path is relative to the job's output directory and stays inside it.
	Path string `json:"path"`
	Kind string `json:"kind"`
	// Min holds the least acceptable value per counter; never empty after Parse.
	Min map[string]int64 `json:"min"`
	// Optional outputs may be missing.
	Optional bool `json:"optional,omitempty"`
}

// Kinds lists the kinds of output.
func Kinds() []string { return []string{KindGames, KindDataset, KindModel, KindMatches, KindFile} }

// StageNames lists the stages in the order in which the loop runs them.
func StageNames() []string { return []string{Selfplay, Export, Train, Evaluate} }

// DefaultMin is what an output of a kind must hold when its min says nothing: one of what the kind is about.
func DefaultMin(kind string) map[string]int64 {
	switch kind {
	case KindGames, KindMatches:
		return map[string]int64{"games": 1}
	case KindDataset:
		return map[string]int64{"samples": 1}
	default:
		return map[string]int64{"bytes": 1}
	}
}

// product is the kind of output that a stage is for, and the counter of it that a success must show ("" for none): what the
// ring's state demands of a finished item.
func product(stage string) (kind, counter string) {
	switch stage {
	case Selfplay:
		return KindGames, "games"
	case Export:
		return KindDataset, "samples"
	case Train:
		return KindModel, ""
	default:
		return KindMatches, "games"
	}
}

// HasConfig says whether the workload can train c.
func (w *Workload) HasConfig(c id.Config) bool {
	for _, have := range w.Configs {
		if have == c {
			return true
		}
	}
	return false
}

// Problem is one fault of a workload file: where, what, and how to mend it.
type Problem struct {
	File string
	// Line and Column count from 1; 0 means that the place is not known.
	Line, Column int
	// Field is the path of the faulty key ("stages.train.argv[3]"), or "".
	Field string
	// Text says what is wrong, Fix how to mend it ("" when that is obvious).
	Text, Fix string
}

// Error renders "file:line:column: field: text (fix)".
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Text)
	if p.Fix != "" {
		b.WriteString(" (" + p.Fix + ")")
	}
	return b.String()
}
