package kittest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ringagent/ringagent/internal/id"
)

type store struct{ n *Node }

func (s store) PutFile(_ context.Context, path string) (id.Digest, int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", 0, err
	}
	d := id.DigestOf(b)
	s.n.put(d, b)
	return d, int64(len(b)), nil
}

func (s store) Path(d id.Digest) (string, bool) {
	_, err := os.Stat(s.n.blob(d))
	return s.n.blob(d), err == nil
}

func (s store) Ensure(ctx context.Context, d id.Digest) (string, error) {
	if p, ok := s.Path(d); ok {
		return p, nil
	}
	if err := (orders{s.n.r, s.n}).Fetch(ctx, s.n.ID, d); err != nil {
		return "", err
	}
	return s.n.blob(d), nil
}

func (s store) Verify(_ context.Context, d id.Digest) error {
	s.n.disk.Lock()
	defer s.n.disk.Unlock()
	if s.n.Holds(d) {
		return nil
	}
	s.n.mu.Lock()
	s.n.Quarantine[s.n.blob(d)] = "hash differs"
	s.n.mu.Unlock()
	_ = os.Remove(s.n.blob(d))
	return fmt.Errorf("artifact %s: hash differs", d.Short())
}

func (s store) Drop(_ context.Context, d id.Digest, reason string) error {
	s.n.disk.Lock()
	defer s.n.disk.Unlock()
	s.n.mu.Lock()
	s.n.Quarantine[s.n.blob(d)] = reason
	s.n.mu.Unlock()
	s.n.r.dropReceipt(s.n.ID, d)
	return os.Remove(s.n.blob(d))
}

func (s store) Discard(_ context.Context, ds ...id.Digest) error {
	s.n.disk.Lock()
	defer s.n.disk.Unlock()
	if err := s.n.r.permit(s.n.ID, ds); err != nil {
		return err
	}
	for _, d := range ds {
		if err := os.Remove(s.n.blob(d)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

func (s store) Aside(_ context.Context, path, reason string) (string, error) {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	dst := filepath.Join(s.n.dir, "quarantine", filepath.Base(path))
	for _, beside := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + beside)
		if err == nil {
			err = os.WriteFile(dst+beside, b, 0o600)
		}
		if err != nil && (beside == "" || !os.IsNotExist(err)) {
			return "", err
		}
	}
	s.n.Quarantine[path] = reason
	return dst, nil
}
