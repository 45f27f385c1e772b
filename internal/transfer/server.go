package transfer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/ringagent/ringagent/internal/disk"
	"github.com/ringagent/ringagent/internal/id"
)

// Source is where a Server finds artifacts.
type Source interface {
	// Open opens an artifact; any error means that it is not here.
	Open(d id.Digest) (*os.File, error)
	// Sidecar is a path for data derived from an artifact, which may vanish at any time.
	Sidecar(d id.Digest, kind string) string
}

// piece is how many bytes are sent, or awaited, under one deadline.
const piece = 256 << 10

// Options bound what transfers may use on this node. The zero value of each field has a meaning. A Server and a Client each
// have bounds of their own; give both the same Limit to share the bandwidth.
type Options struct {
	MaxBytes int64         // of one artifact; 0: DefaultMaxBytes
	Streams  int           // at the same time; 0: 8 for a server, 4 for a client. Memory: a client holds 8 MiB a stream
	Limit    *rate.Limiter // bytes a second; its burst must be at least 256 KiB; nil: unlimited
	Progress time.Duration // for 256 KiB to pass, or an answer to begin; 0: 15 s
	Idle     time.Duration // server: between two requests on a connection; 0: 1 min
	Log      zerolog.Logger
	// Damaged is told when a copy of our own turns out to have other bytes than its name says; nil: nobody.
	Damaged func(id.Digest, error)
	Now     func() time.Time // for receipts; nil: time.Now
	// Free is how many bytes can still be written below a directory; nil: what the file system says. An error means that nobody
	// knows, and that nothing is held back.
	Free func(dir string) (int64, error)
}

func (o Options) withDefaults(streams int) (Options, error) {
	o.MaxBytes = cmp.Or(o.MaxBytes, DefaultMaxBytes)
	o.Streams = cmp.Or(o.Streams, streams)
	o.Progress = cmp.Or(o.Progress, 15*time.Second)
	o.Idle = cmp.Or(o.Idle, time.Minute)
	if o.Damaged == nil {
		o.Damaged = func(id.Digest, error) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Free == nil {
		o.Free = disk.Free
	}
	switch {
	case o.MaxBytes < 0 || o.MaxBytes > 1<<42 || o.Streams < 0 || o.Progress < 0 || o.Idle < 0:
		return o, fmt.Errorf("transfer limits out of range: %d bytes, %d streams, %v, %v", o.MaxBytes, o.Streams, o.Progress, o.Idle)
	case o.Limit != nil && o.Limit.Limit() != rate.Inf && o.Limit.Burst() < piece:
		return o, fmt.Errorf("bandwidth limiter has a burst of %d bytes, needs %d", o.Limit.Burst(), piece)
	}
	return o, nil
}

// wait takes n bytes out of the bandwidth.
func (o Options) wait(ctx context.Context, n int) error {
	if o.Limit == nil {
		return nil
	}
	return o.Limit.WaitN(ctx, n)
}

// Server answers requests for the artifacts of one node.
type Server struct {
	source  Source
	o       Options
	streams *berths
	hashing chan struct{} // one manifest is computed at a time: reading and hashing are what the machine has least of

	mu   sync.Mutex
	sent int64
}

// NewServer returns a server of the source's artifacts.
func NewServer(source Source, o Options) (*Server, error) {
	o, err := o.withDefaults(8)
	if err != nil {
		return nil, err
	}
	return &Server{source: source, o: o, streams: newBerths(o.Streams), hashing: make(chan struct{}, 1)}, nil
}

// Sent is how many bytes of artifacts have been handed to connections, those included that a lost one swallowed.
func (s *Server) Sent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// Serve answers the requests of one peer's connection, which it closes, until the peer leaves, breaks the protocol or stalls, or
// the context ends. A peer that just leaves is no error.
func (s *Server) Serve(ctx context.Context, peer id.Node, conn net.Conn) error {
	stop := closeWith(ctx, conn)
	defer stop()
	for {
		q, err := s.readRequest(conn)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			err = s.answer(ctx, peer, conn, q)
		}
		if err != nil {
			return fmt.Errorf("serve artifacts to %v: %w", conn.RemoteAddr(), err)
		}
	}
}

// closeWith closes the connection when the context ends, or at the latest when the returned function is called.
func closeWith(ctx context.Context, conn net.Conn) (stop func()) {
	cancel := context.AfterFunc(ctx, func() { _ = conn.Close() })
	return func() {
		cancel()
		_ = conn.Close()
	}
}

func (s *Server) readRequest(conn net.Conn) (request, error) {
	if err := conn.SetReadDeadline(time.Now().Add(s.o.Idle)); err != nil {
		return request{}, err
	}
	var b [requestSize]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return request{}, err
	}
	return decodeRequest(b), nil
}

// answer answers one request. Its error ends the connection.
func (s *Server) answer(ctx context.Context, peer id.Node, conn net.Conn, q request) error {
	if !s.streams.take(peer) {
		return s.refuse(conn, statusBusy, "no stream is free for this node")
	}
	defer s.streams.free(peer)
	f, err := s.source.Open(q.digest)
	if err != nil {
		s.o.Log.Debug().Err(err).Msg("asked for an artifact that is not here")
		return s.refuse(conn, statusNotFound, "no such artifact")
	}
	defer f.Close()
	m, err := s.manifest(ctx, q.digest, f)
	if errors.Is(err, errDamagedHere) {
		s.o.Damaged(q.digest, err)
		return s.refuse(conn, statusNotFound, "the copy here is damaged")
	}
	if err != nil {
		s.o.Log.Error().Err(err).Str("sha256", string(q.digest)).Msg("cannot offer artifact")
		return s.refuse(conn, statusBroken, "the artifact cannot be read")
	}
	switch {
	case q.op == opManifest && q.first == 0 && q.count == 0:
		body := m.encode()
		return s.send(ctx, conn, append(answerHeader(statusOK, int64(len(body))), body...))
	case q.op == opChunks && q.count > 0 && q.count <= maxRun && int64(q.first)+int64(q.count) <= int64(len(m.chunks)):
		return s.sendChunks(ctx, conn, f, m, q)
	}
	return errors.Join(s.refuse(conn, statusRefused, "malformed request"), errors.New("malformed request"))
}

func (s *Server) refuse(conn net.Conn, status byte, reason string) error {
	if err := conn.SetWriteDeadline(time.Now().Add(s.o.Progress)); err != nil {
		return err
	}
	_, err := conn.Write(append(answerHeader(status, int64(len(reason))), reason...))
	return err
}

// manifest loads or computes the manifest of an open artifact.
func (s *Server) manifest(ctx context.Context, d id.Digest, f *os.File) (manifest, error) {
	info, err := f.Stat()
	if err != nil {
		return manifest{}, err
	}
	if info.Size() > s.o.MaxBytes {
		return manifest{}, fmt.Errorf("%d bytes, limit %d", info.Size(), s.o.MaxBytes)
	}
	path := s.source.Sidecar(d, "chunks")
	if m, ok := loadManifest(path, info.Size(), s.o.MaxBytes); ok {
		return m, nil
	}
	select {
	case s.hashing <- struct{}{}:
		defer func() { <-s.hashing }()
	case <-ctx.Done():
		return manifest{}, ctx.Err()
	}
	if m, ok := loadManifest(path, info.Size(), s.o.MaxBytes); ok { // another connection has just made it
		return m, nil
	}
	m, err := computeManifest(ctx, io.NewSectionReader(f, 0, info.Size()), d)
	if err != nil {
		return manifest{}, err
	}
	if err := saveManifest(path, m); err != nil {
		s.o.Log.Warn().Err(err).Msg("cannot keep an artifact's chunk hashes; they will be computed again")
	}
	return m, nil
}

// sendChunks sends chunks as they are read, each compared with the manifest on the way: a copy that was damaged after its
// manifest was made would be offered, and counted, for ever. Of a wrong chunk the end is not sent.
func (s *Server) sendChunks(ctx context.Context, conn net.Conn, f *os.File, m manifest, q request) error {
	from := int64(q.first) * ChunkSize
	to := min(m.size, from+int64(q.count)*ChunkSize)
	if err := s.send(ctx, conn, answerHeader(statusOK, to-from)); err != nil {
		return err
	}
	r := io.NewSectionReader(f, from, to-from)
	buf, chunk := make([]byte, piece), sha256.New()
	for at := from; at < to; {
		n, err := io.ReadFull(r, buf[:min(piece, to-at)])
		short := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !short {
			return fmt.Errorf("read artifact %s: %w", q.digest.Short(), err)
		}
		chunk.Write(buf[:n])
		at += int64(n)
		if short || at == to || at%ChunkSize == 0 {
			if i := (at - 1) / ChunkSize; short || [hashSize]byte(chunk.Sum(nil)) != m.chunks[i] {
				err := fmt.Errorf("chunk %d of artifact %s is not what it was: %w", i, q.digest.Short(), errDamagedHere)
				s.o.Damaged(q.digest, err)
				return err
			}
			chunk.Reset()
		}
		s.mu.Lock()
		s.sent += int64(n) // before the peer can have them, so that it never knows of more than we do
		s.mu.Unlock()
		if err := s.send(ctx, conn, buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// send writes b in pieces, each within the bandwidth and under a deadline of its own.
func (s *Server) send(ctx context.Context, conn net.Conn, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), piece)
		if err := s.o.wait(ctx, n); err != nil {
			return err
		}
		if err := conn.SetWriteDeadline(time.Now().Add(s.o.Progress)); err != nil {
			return err
		}
		if _, err := conn.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
