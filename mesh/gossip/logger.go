package gossip

import (
	"bytes"
	"log"
	"strings"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
)

// newLogger gives memberlist a logger that writes to ours. memberlist calls an error what is an everyday event on rented
// machines, so its levels are lowered by one. probeFailed is told of each node whose probe got no answer: memberlist keeps
// that to itself otherwise.
func newLogger(l zerolog.Logger, probeFailed func(id.Node)) *log.Logger {
	return log.New(&logWriter{log: l, probeFailed: probeFailed}, "", 0)
}

type logWriter struct {
	log         zerolog.Logger
	probeFailed func(id.Node)
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
	w.log.WithLevel(level).Msg(text)
	return len(line), nil
}
