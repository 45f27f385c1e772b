package rpc

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/wire"
)

// raw is a peer that speaks HTTP/2 itself, and takes only what it wants to.
type raw struct {
	t    *testing.T
	conn net.Conn

	writing sync.Mutex
	framer  *http2.Framer
	next    uint32

	mu       sync.Mutex
	statuses map[uint32]string
	resets   map[uint32]bool
	bytes    map[uint32]int
}

// dialRaw connects a peer whose streams begin with a window.
func dialRaw(t *testing.T, s *Server, window uint32) *raw {
	t.Helper()
	near, far := net.Pipe()
	go s.ServeConn(t.Context(), far, wire.Peer{Node: id.NewNode(), Class: id.Edge})
	p := &raw{t: t, conn: near, framer: http2.NewFramer(near, near), next: 1,
		statuses: make(map[uint32]string), resets: make(map[uint32]bool), bytes: make(map[uint32]int)}
	p.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err := near.Write([]byte(http2.ClientPreface))
	must(t, err)
	p.write(func(f *http2.Framer) error {
		return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	})
	go p.read() // not before: what is said to the server's settings must come after one's own
	p.write(func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 1<<30) })
	return p
}

func (p *raw) write(f func(*http2.Framer) error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	must(p.t, f(p.framer))
}

func (p *raw) read() {
	for {
		frame, err := p.framer.ReadFrame()
		if err != nil {
			return
		}
		p.mu.Lock()
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			if status := f.PseudoValue("status"); status != "" {
				p.statuses[f.StreamID] = status
			}
		case *http2.DataFrame:
			p.bytes[f.StreamID] += len(f.Data())
		case *http2.RSTStreamFrame:
			p.resets[f.StreamID] = true
		case *http2.PingFrame:
			if !f.IsAck() {
				go p.write(func(w *http2.Framer) error { return w.WritePing(true, f.Data) })
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				go p.write(func(w *http2.Framer) error { return w.WriteSettingsAck() })
			}
		}
		p.mu.Unlock()
	}
}

// call begins a call without a body or a deadline.
func (p *raw) call(method string) uint32 {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, field := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "node"}, {Name: ":path", Value: "/" + method},
		{Name: strings.ToLower(headerGeneration), Value: "0"},
	} {
		must(p.t, e.WriteField(field))
	}
	stream := p.next
	p.next += 2
	p.write(func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	})
	return stream
}

func (p *raw) grant(stream, n uint32) {
	p.write(func(f *http2.Framer) error { return f.WriteWindowUpdate(stream, n) })
}

func (p *raw) status(stream uint32) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statuses[stream]
}

func (p *raw) ended(stream uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.resets[stream]
}

func (p *raw) received(stream uint32) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes[stream]
}

func (p *raw) close() { _ = p.conn.Close() }
