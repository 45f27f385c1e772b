package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// fetch is the state of one Fetch.
type fetch struct {
	client       *Client
	digest       id.Digest
	size         int64
	reasons      []Reason
	contributors map[id.Node]bool // whose chunks are in the half-fetched file
	best         int              // chunks that were there at the best of times
	inherited    bool             // the file has chunks from before this Fetch
	alone        bool             // after a wrong whole: no two holders' chunks are mixed any more
	owed         int64            // bytes that are booked and not on the disk yet; guarded by the client
}

// localError is one of this machine's; another holder cannot help.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

func (f *fetch) run(ctx context.Context, holders []id.Node) (int64, error) {
	var queue []id.Node
	for _, h := range holders {
		if h != f.client.self && !slices.Contains(queue, h) {
			queue = append(queue, h)
		}
	}
	for len(queue) > 0 {
		want := queue
		if f.alone {
			want = queue[:1] // another one's turn would throw this one's chunks away
		}
		node, err := f.client.streams.take(ctx, want)
		if err != nil {
			return 0, fmt.Errorf("fetch artifact %s: %w", f.digest.Short(), err)
		}
		i := slices.Index(queue, node)
		n, left, err := f.turn(ctx, node, slices.Delete(queue, i, i+1))
		if err != nil || left == nil {
			return n, err
		}
		queue = left
	}
	return 0, &FetchError{Digest: f.digest, Reasons: f.reasons}
}

// turn is one holder's, whose stream it gives back. It returns the file's size, or whose turns are left, which is nil if the fetch
// is done.
func (f *fetch) turn(ctx context.Context, node id.Node, queue []id.Node) (n int64, left []id.Node, err error) {
	defer f.client.streams.give(node) // after a panic, too
	if f.alone && !f.onlyFrom(node) {
		if err := f.discard(); err != nil {
			return 0, nil, err
		}
	}
	have, err := f.from(ctx, node)
	if err == nil {
		n, again, err := f.finish(ctx, node)
		if err != nil || again == nil {
			return n, nil, err
		}
		return 0, append(again, queue...), nil
	}
	if ctx.Err() != nil {
		return 0, nil, fmt.Errorf("fetch artifact %s: %w", f.digest.Short(), ctx.Err())
	}
	var local *localError
	if errors.As(err, &local) {
		return 0, nil, f.localFailure(local.err)
	}
	f.client.o.Log.Debug().Err(err).Str("holder", string(node)).Str("sha256", string(f.digest)).Int("chunks", have).
		Msg("holder did not give the whole artifact")
	// A link that breaks but brought something is worth another turn, after the others. More than ever must be there, or
	// two holders that undo each other's work would keep us busy for ever.
	more := have > f.best && !errors.Is(err, ErrLied)
	f.reasons = append(f.reasons, Reason{node, err})
	switch {
	case !more:
	case f.alone:
		f.best, queue = have, append([]id.Node{node}, queue...) // see run
	default:
		f.best, queue = have, append(queue, node)
	}
	return 0, append([]id.Node{}, queue...), nil
}

func (f *fetch) onlyFrom(node id.Node) bool {
	return !f.inherited && (len(f.contributors) == 0 || (len(f.contributors) == 1 && f.contributors[node]))
}

func (f *fetch) discard() error {
	clear(f.contributors)
	f.inherited, f.best = false, 0
	if err := discardPartial(f.client.store.PartialDir(), f.digest); err != nil {
		return fmt.Errorf("fetch artifact %s: drop half-fetched file: %w", f.digest.Short(), err)
	}
	return nil
}

// localFailure keeps what has arrived, except on a full disk, where it is in everybody's way.
func (f *fetch) localFailure(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = errors.Join(fmt.Errorf("%w: %w", ErrNoSpace, err), f.discard())
	}
	return fmt.Errorf("fetch artifact %s: %w", f.digest.Short(), err)
}

// finish hands the whole file to the store. If its bytes are wrong although every chunk fitted a manifest, somebody's
// manifest lied: one who gave all of it is out, several are tried again one by one, which again returns.
func (f *fetch) finish(ctx context.Context, last id.Node) (n int64, again []id.Node, err error) {
	dir := f.client.store.PartialDir()
	data, record := partialPaths(dir, f.digest)
	n, err = f.client.store.Adopt(ctx, data, f.digest)
	if err == nil {
		if err := os.Remove(record); err != nil && !errors.Is(err, os.ErrNotExist) {
			f.client.o.Log.Warn().Err(err).Msg("record of a finished fetch stays")
		}
		return n, nil, nil
	}
	if ctx.Err() != nil {
		return 0, nil, fmt.Errorf("fetch artifact %s: %w", f.digest.Short(), ctx.Err())
	}
	var refused interface{ Refused() bool }
	if errors.As(err, &refused) && refused.Refused() {
		return 0, nil, errors.Join(fmt.Errorf("fetch artifact %s: %w", f.digest.Short(), err), f.discard())
	}
	var damaged interface{ Damaged() bool }
	if !errors.As(err, &damaged) || !damaged.Damaged() {
		return 0, nil, f.localFailure(err)
	}
	again = []id.Node{}
	if f.onlyFrom(last) {
		f.reasons = append(f.reasons, Reason{last, fmt.Errorf("the whole file has another hash: %w", ErrLied)})
	} else {
		for node := range f.contributors {
			again = append(again, node)
		}
		slices.Sort(again)
		if !f.contributors[last] {
			again = append(again, last)
		}
	}
	f.alone = true
	return 0, again, f.discard()
}

// from gets what is missing from one holder and says how many chunks there are now.
func (f *fetch) from(ctx context.Context, node id.Node) (have int, err error) {
	c := f.client
	dialCtx, cancel := context.WithTimeout(ctx, c.o.Progress)
	conn, err := c.dialer.DialBlob(dialCtx, node)
	cancel()
	if err != nil {
		return 0, fmt.Errorf("dial: %w", err)
	}
	stop := closeWith(ctx, conn)
	defer stop()
	m, err := f.askManifest(conn)
	if err != nil {
		return 0, fmt.Errorf("get manifest: %w", slow(err))
	}
	p, err := openPartial(c.store.PartialDir(), f.digest, m, c.o.MaxBytes)
	if err != nil {
		return 0, &localError{fmt.Errorf("open half-fetched file: %w", err)}
	}
	defer p.Close()
	if len(f.contributors) == 0 && slices.Contains(p.have, true) {
		f.inherited = true
	}
	if err := f.book(p.lacking()); err != nil {
		return 0, &localError{err}
	}
	err = f.chunks(ctx, conn, p, node)
	f.written(p.lacking()) // or never: then the next holder's turn books it again
	return p.count(), err
}

func (f *fetch) askManifest(conn net.Conn) (manifest, error) {
	c := f.client
	// A holder that serves an artifact for the first time reads all of it before it can answer.
	patience := 4*c.o.Progress + time.Duration(f.size/50_000_000)*time.Second
	if err := f.ask(conn, request{op: opManifest, digest: f.digest}, patience); err != nil {
		return manifest{}, err
	}
	most := maxManifest(c.o.MaxBytes)
	if f.size > 0 {
		most = maxManifest(f.size)
	}
	n, err := readAnswer(conn, most, true)
	if err != nil {
		return manifest{}, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(c.o.Progress)); err != nil {
		return manifest{}, err
	}
	b := make([]byte, n) // at most half a megabyte
	if _, err := io.ReadFull(conn, b); err != nil {
		return manifest{}, err
	}
	m, err := decodeManifest(b, c.o.MaxBytes)
	if err != nil {
		return manifest{}, err
	}
	if f.size > 0 && m.size != f.size {
		return manifest{}, fmt.Errorf("manifest says %d bytes, the artifact has %d: %w", m.size, f.size, ErrLied)
	}
	return m, nil
}

// ask sends a request and sets the deadline for the answer to begin.
func (f *fetch) ask(conn net.Conn, q request, patience time.Duration) error {
	b, err := q.encode()
	if err != nil {
		return err
	}
	if err := conn.SetWriteDeadline(time.Now().Add(f.client.o.Progress)); err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	return conn.SetReadDeadline(time.Now().Add(patience))
}

func (f *fetch) chunks(ctx context.Context, conn net.Conn, p *partial, node id.Node) error {
	for {
		first, count := p.missing()
		if count == 0 {
			return nil
		}
		want := int64(0)
		for i := first; i < first+count; i++ {
			want += int64(p.manifest.chunkLen(i))
		}
		if err := f.room(); err != nil {
			return &localError{err}
		}
		q := request{op: opChunks, digest: f.digest, first: uint32(first), count: uint32(count)}
		if err := f.ask(conn, q, f.client.o.Progress); err != nil {
			return fmt.Errorf("ask for chunks: %w", slow(err))
		}
		if _, err := readAnswer(conn, want, false); err != nil {
			return fmt.Errorf("ask for chunks: %w", slow(err))
		}
		stored, err := f.receive(ctx, conn, p, first, count)
		if stored > 0 {
			f.contributors[node] = true
		}
		if err != nil {
			return err
		}
	}
}

// receive reads a run of chunks. While one is read, the one before is hashed and written.
func (f *fetch) receive(ctx context.Context, conn net.Conn, p *partial, first, count int) (stored int, err error) {
	type chunk struct {
		i int
		b []byte
	}
	arrived := make(chan chunk)
	buffers := make(chan []byte, 2)
	buffers <- make([]byte, min(ChunkSize, p.manifest.size))
	buffers <- make([]byte, min(ChunkSize, p.manifest.size))
	failed := make(chan struct{})
	var stopped sync.WaitGroup
	var storeErr error
	stopped.Go(func() {
		for c := range arrived {
			if storeErr == nil {
				if storeErr = f.store(p, c.i, c.b); storeErr != nil {
					close(failed)
				} else {
					stored++
				}
			}
			buffers <- c.b[:cap(c.b)]
		}
	})
	for i := first; i < first+count && err == nil; i++ {
		b := (<-buffers)[:p.manifest.chunkLen(i)]
		if err = f.read(ctx, conn, b); err != nil {
			err = fmt.Errorf("read chunk %d: %w", i, slow(err))
			break
		}
		select {
		case arrived <- chunk{i, b}:
		case <-failed:
			err = errors.New("stopped") // storeErr says why
		}
	}
	close(arrived)
	stopped.Wait()
	if storeErr != nil {
		err = storeErr
	}
	return stored, err
}

func (f *fetch) store(p *partial, i int, b []byte) error {
	if sha256.Sum256(b) != p.manifest.chunks[i] {
		return fmt.Errorf("chunk %d has another hash than the manifest says: %w", i, ErrLied)
	}
	if err := p.put(i, b); err != nil {
		return &localError{fmt.Errorf("write chunk %d: %w", i, err)}
	}
	f.written(int64(len(b)))
	return nil
}

// read fills b in pieces, each within the bandwidth and under a deadline of its own: a peer that sends a byte now and then
// makes no progress.
func (f *fetch) read(ctx context.Context, conn net.Conn, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), piece)
		if err := f.client.o.wait(ctx, n); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(f.client.o.Progress)); err != nil {
			return err
		}
		got, err := io.ReadFull(conn, b[:n])
		f.client.mu.Lock()
		f.client.received += int64(got)
		f.client.mu.Unlock()
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// slow names a passed deadline.
func slow(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrSlow, err)
	}
	return err
}
