package leader

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// catchUpPoll is how often a node that began anew looks whether it has read what it had before.
const catchUpPoll = 500 * time.Millisecond

const (
	catchUpFile  = "catchup"
	catchUpBytes = 12 // index, CRC32C of it
)

// readMark reads up to which index a node that began anew must have read before it may stand for election; 0 = it may.
func readMark(dir string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(dir, catchUpFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read catch-up mark: %w", err)
	case len(b) != catchUpBytes || binary.BigEndian.Uint32(b[8:]) != markSum(b[:8]):
		return 0, fmt.Errorf("read catch-up mark: %w", ErrCorrupt)
	}
	return binary.BigEndian.Uint64(b), nil
}

// writeMark is on disk when it returns.
func writeMark(dir string, index uint64) error {
	b := binary.BigEndian.AppendUint64(nil, index)
	b = binary.BigEndian.AppendUint32(b, markSum(b))
	path := filepath.Join(dir, catchUpFile)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write catch-up mark: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	return wrap("write catch-up mark", err)
}

func markSum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// fallBehind has this node not stand for election until it has read the log up to index, also after a restart: until then
// the newest configuration that it has read may be that of a ring of one, with which it would elect itself.
func (n *Node) fallBehind(index uint64) error {
	n.markMu.Lock()
	defer n.markMu.Unlock()
	if err := writeMark(n.cfg.Dir, index); err != nil {
		return err
	}
	n.behind.Store(index)
	return nil
}

// catchUp watches a seat that is not to stand yet.
func (n *Node) catchUp(ctx context.Context) {
	if s := n.seat.Load(); s != nil && n.behind.Load() > 0 {
		n.begin(func() { n.standWhenCaughtUp(ctx, s) })
	}
}

func (n *Node) standWhenCaughtUp(ctx context.Context, s *seat) {
	said := false
	for {
		if s.raft.AppliedIndex() >= n.behind.Load() {
			err := n.forgetMark(s)
			if err == nil {
				break
			}
			if !said {
				n.log.Error().Err(err).Msg("this node has caught up, but does not stand for election yet")
			}
			said = true
		}
		if !sleep(ctx, catchUpPoll) || n.seat.Load() != s {
			return
		}
	}
	n.standing.Lock()
	defer n.standing.Unlock()
	if n.behind.Load() == 0 && !n.DiskBad() {
		n.campaign(s, true)
	}
}

// forgetMark removes the mark, unless the seat was given up meanwhile: then it is the next one's.
func (n *Node) forgetMark(s *seat) error {
	n.markMu.Lock()
	defer n.markMu.Unlock()
	if n.seat.Load() != s {
		return nil
	}
	if err := os.Remove(filepath.Join(n.cfg.Dir, catchUpFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove catch-up mark: %w", err)
	}
	n.behind.Store(0)
	return nil
}
