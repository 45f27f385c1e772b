package gossip

import (
	"bytes"
	"log"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/ringagent/ringagent/internal/id"
)

// newLogger gives memberlist a logger that writes to ours. memberlist calls an error what is an everyday event on rented
// machines, so its levels are lowered by one. probeFailed is told of each node whose probe got no answer: memberlist keeps
// that to itself otherwise.
func newLogger(l zerolog.Logger, probeFailed func(id.Node)) *log.Logger {
	w := &logWriter{log: l, probeFailed: probeFailed, told: rate.NewLimiter(rate.Every(logEvery), logBurst)}
	return log.New(w, "", 0)
}

// memberlist has a line for each message that it cannot read. What a peer sends must not fill this node's disk.
const (
	logEvery = time.Second
	logBurst = 50
)

type logWriter struct {
	log         zerolog.Logger
	probeFailed func(id.Node)
	told        *rate.Limiter // of lines that nobody asked for by a low level
	unsaid      int           // lines since the last one; the log package calls Write one at a time
}

const (
	suspectBefore = "Suspect "
	suspectAfter  = " has failed, no acks received"
)

// Write implements io.Writer; the log package calls it once per line.
func (w *logWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimRight(line, "\n"))
	level := zerolog.DebugLevel
	for prefix, l := range map[string]zerolog.Level{
		"[DEBUG] ": zerolog.TraceLevel, "[INFO] ": zerolog.DebugLevel, "[WARN] ": zerolog.InfoLevel,
		"[ERR] ": zerolog.WarnLevel, "[ERROR] ": zerolog.WarnLevel,
	} {
		if rest, ok := strings.CutPrefix(text, prefix); ok {
			level, text = l, rest
			break
		}
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	if rest, ok := strings.CutPrefix(text, suspectBefore); ok {
		if name, ok := strings.CutSuffix(rest, suspectAfter); ok {
			w.probeFailed(id.Node(name))
		}
	}
	if level >= zerolog.InfoLevel && !w.told.Allow() {
		w.unsaid++
		return len(line), nil
	}
	event := w.log.WithLevel(level)
	if level >= zerolog.InfoLevel && w.unsaid > 0 {
		event.Int("unsaid", w.unsaid)
		w.unsaid = 0
	}
	event.Msg(text)
	return len(line), nil
}
