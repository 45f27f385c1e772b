package leader

import (
	"fmt"
	"io"
	"log"

	"github.com/hashicorp/go-hclog"
	"github.com/rs/zerolog"
)

// raftLogger writes the library's log lines to a zerolog logger. The library calls many ordinary moments of a ring
// (a peer that does not answer, a lost pre-vote) errors; those appear as warnings, and its chatter as debug lines.
type raftLogger struct {
	out  zerolog.Logger
	name string
	args []any
}

func newRaftLogger(out zerolog.Logger) hclog.Logger { return raftLogger{out: out, name: "raft"} }

func (l raftLogger) Log(level hclog.Level, msg string, args ...any) {
	var e *zerolog.Event
	switch level {
	case hclog.Error, hclog.Warn:
		e = l.out.Warn()
	case hclog.Info, hclog.Debug:
		e = l.out.Debug()
	default:
		e = l.out.Trace()
	}
	if e == nil {
		return
	}
	e.Str("part", l.name)
	for _, list := range [][]any{l.args, args} {
		for i := 0; i+1 < len(list); i += 2 {
			key := fmt.Sprint(list[i])
			if key == "node" { // which the agent's own lines have already: the node whose log it is
				key = "raft_node"
			}
			switch v := list[i+1].(type) {
			case error:
				e.AnErr(key, v)
			case string:
				e.Str(key, v)
			case hclog.Format:
				if len(v) > 0 {
					e.Str(key, fmt.Sprintf(fmt.Sprint(v[0]), v[1:]...))
				}
			default:
				e.Str(key, fmt.Sprint(v))
			}
		}
	}
	e.Msg(msg)
}

func (l raftLogger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l raftLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l raftLogger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l raftLogger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l raftLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l raftLogger) IsTrace() bool { return l.out.GetLevel() <= zerolog.TraceLevel }
func (l raftLogger) IsDebug() bool { return l.out.GetLevel() <= zerolog.DebugLevel }
func (l raftLogger) IsInfo() bool  { return l.IsDebug() }
func (l raftLogger) IsWarn() bool  { return l.out.GetLevel() <= zerolog.WarnLevel }
func (l raftLogger) IsError() bool { return l.IsWarn() }

func (l raftLogger) ImpliedArgs() []any { return l.args }
func (l raftLogger) Name() string       { return l.name }

func (l raftLogger) With(args ...any) hclog.Logger {
	l.args = append(l.args[:len(l.args):len(l.args)], args...)
	return l
}

func (l raftLogger) Named(name string) hclog.Logger {
	l.name += "." + name
	return l
}

func (l raftLogger) ResetNamed(name string) hclog.Logger {
	l.name = name
	return l
}

func (l raftLogger) SetLevel(hclog.Level) {}

func (l raftLogger) GetLevel() hclog.Level {
	if l.IsDebug() {
		return hclog.Debug
	}
	return hclog.Warn
}

func (l raftLogger) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(o), "", 0)
}

func (l raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return l.out.With().Str("part", l.name).Logger()
}
