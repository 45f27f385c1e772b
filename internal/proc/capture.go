package proc

import (
	"bytes"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"
)

const (
	// Two files of this size hold the end of the output: never less than one of them, never more than both.
	logFileBytes = 4 << 20
	// A line is looked at for progress in pieces of at most this size.
	maxLineBytes = 4 << 10
	// At most so much output is matched per window. A job that prints faster than that is sampled, because matching
	// everything would block it.
	scanBudget = 512 << 10
	scanWindow = 100 * time.Millisecond
)

// ringLog keeps the end of what is written to it. It never returns an error: a full disk must not block the command.
type ringLog struct {
	dir     string
	file    *os.File
	size    int64
	written int64
}

func newRingLog(dir string) *ringLog {
	l := &ringLog{dir: dir}
	l.open()
	return l
}

func (l *ringLog) open() {
	l.file, _ = os.OpenFile(filepath.Join(l.dir, logName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	l.size = 0
}

// Write implements io.Writer; it always takes everything.
func (l *ringLog) Write(p []byte) (int, error) {
	l.written += int64(len(p))
	if l.size+int64(len(p)) > logFileBytes {
		l.rotate()
	}
	if l.file != nil {
		if _, err := l.file.Write(p); err != nil {
			l.rotate() // most likely the disk is full: give back what we hold
			return len(p), nil
		}
	}
	l.size += int64(len(p))
	return len(p), nil
}

func (l *ringLog) rotate() {
	l.close()
	_ = os.Rename(filepath.Join(l.dir, logName), filepath.Join(l.dir, oldLogName))
	l.open()
}

func (l *ringLog) close() {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}

// logTail returns the last n bytes of both files of the log in dir.
func logTail(dir string, n int) ([]byte, error) {
	var tail []byte
	for _, name := range []string{logName, oldLogName} {
		if len(tail) >= n {
			break
		}
		part, err := fileTail(filepath.Join(dir, name), n-len(tail))
		if err != nil {
			return nil, err
		}
		tail = append(part, tail...)
	}
	return tail, nil
}

func fileTail(path string, n int) ([]byte, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(max(0, info.Size()-int64(n)), io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, int64(n)))
}

// Sanitise makes output fit for a terminal or a log: control bytes and broken UTF-8 become escapes, except for newlines
// and tabs.
func Sanitise(b []byte) string {
	var out bytes.Buffer
	for _, r := range string(b) {
		switch {
		case r == '\n' || r == '\t':
			out.WriteRune(r)
		case r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == '\ufffd' || (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069):
			q := strconv.QuoteRuneToASCII(r)
			out.WriteString(q[1 : len(q)-1])
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}

// meter finds the progress number in output and remembers its largest value. feed is called by one goroutine; read by
// any.
type meter struct {
	re    *regexp.Regexp
	group int

	carry  []byte
	budget int
	window time.Time

	mu    sync.Mutex
	value float64
	seen  bool
	at    time.Time
	bytes int64
}

func newMeter(l Limits, now time.Time) (*meter, error) {
	m := &meter{group: l.ProgressGroup, at: now}
	if l.Progress == "" {
		return m, nil
	}
	var err error
	m.re, err = regexp.Compile(l.Progress)
	return m, err
}

func (m *meter) read() (value float64, at time.Time, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.value, m.at, m.bytes
}

// feed takes the next piece of output. Lines end with a newline or a carriage return, as progress bars write them.
func (m *meter) feed(p []byte, now time.Time) {
	m.mu.Lock()
	m.bytes += int64(len(p))
	m.mu.Unlock()
	if m.re == nil {
		return
	}
	if now.Sub(m.window) >= scanWindow {
		m.window, m.budget = now, scanBudget
	}
	if len(p) > m.budget && len(p) > maxLineBytes {
		// Sampled: only the end of this piece, from its first whole line on.
		p, m.carry = p[len(p)-maxLineBytes:], m.carry[:0]
		p = p[bytes.IndexAny(p, "\r\n")+1:]
	}
	m.budget -= len(p)
	for len(p) > 0 {
		i := bytes.IndexAny(p, "\r\n")
		if i < 0 {
			m.carry = append(m.carry, p...)
			if extra := len(m.carry) - maxLineBytes; extra > 0 {
				m.carry = append(m.carry[:0], m.carry[extra:]...)
			}
			return
		}
		line := p[:i]
		if len(m.carry) > 0 {
			m.carry = append(m.carry, line...)
			line = m.carry
		}
		m.match(line[max(0, len(line)-maxLineBytes):], now)
		p, m.carry = p[i+1:], m.carry[:0]
	}
}

// flush takes what is left as a last line.
func (m *meter) flush(now time.Time) {
	if m.re != nil && len(m.carry) > 0 {
		m.match(m.carry, now)
		m.carry = nil
	}
}

func (m *meter) match(line []byte, now time.Time) {
	found := m.re.FindSubmatch(line)
	if found == nil {
		return
	}
	v, err := strconv.ParseFloat(string(found[m.group]), 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.seen || v > m.value {
		m.value, m.seen, m.at = v, true, now
	}
}
