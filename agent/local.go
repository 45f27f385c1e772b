package agent

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/internal/boltfile"
)

// localStore is state.db: small durable state of daemons and of the agent itself on this node.
type localStore struct{ db *bbolt.DB }

// openLocal opens the file, or makes it. A damaged one is a *boltfile.DamagedError.
func openLocal(path string) (*localStore, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > 0 { // what is empty was being made
		if _, err := boltfile.Check(path, true); err != nil {
			return nil, fmt.Errorf("open state.db: %w", err)
		}
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("open state.db: %w", err)
	}
	return &localStore{db: db}, nil
}

func (s *localStore) close() error { return s.db.Close() }

// shelf is one owner's part of it; it meets kit.Local.
type shelf struct {
	db    *bbolt.DB
	owner []byte
}

func (s *localStore) shelf(owner string) shelf {
	return shelf{db: s.db, owner: []byte("daemon/" + owner)}
}

// Get implements kit.Local.
func (s shelf) Get(key string) (value []byte, found bool, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(s.owner); b != nil {
			if v := b.Get([]byte(key)); v != nil {
				value, found = bytes.Clone(v), true
			}
		}
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("read local state: %w", err)
	}
	return value, found, nil
}

// Put implements kit.Local.
func (s shelf) Put(key string, value []byte) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(s.owner)
		if err != nil {
			return err
		}
		if bytes.Equal(b.Get([]byte(key)), value) && value != nil {
			return nil
		}
		return b.Put([]byte(key), value)
	})
	if err != nil {
		return fmt.Errorf("write local state: %w", err)
	}
	return nil
}

// Delete implements kit.Local.
func (s shelf) Delete(key string) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(s.owner); b != nil {
			return b.Delete([]byte(key))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete local state: %w", err)
	}
	return nil
}

// Keys implements kit.Local.
func (s shelf) Keys(prefix string) (keys []string, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(s.owner)
		if b == nil {
			return nil
		}
		c := b.Cursor()
		for k, _ := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, _ = c.Next() {
			keys = append(keys, string(k))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list local state: %w", err)
	}
	return keys, nil
}
