package eventlog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

type text []byte

func (t text) bodySize() int              { return len(t) }
func (t text) appendBody(b []byte) []byte { return append(b, t...) }

// TestBlocksAgainstAModel appends, cuts at both ends and reads, and compares with a plain map.
func TestBlocksAgainstAModel(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(dir, "blocks.db")
		if err := os.RemoveAll(path); err != nil {
			rt.Fatal(err)
		}
		opt := options()
		opt.NoSync = true
		db, err := bolt.Open(path, 0o600, opt)
		if err != nil {
			rt.Fatal(err)
		}
		defer db.Close()
		bucket := []byte("b")
		change := func(do func(b *bolt.Bucket) error) {
			if err := db.Update(func(tx *bolt.Tx) error {
				b, err := tx.CreateBucketIfNotExists(bucket)
				if err != nil {
					return err
				}
				return do(b)
			}); err != nil {
				rt.Fatal(err)
			}
		}
		change(func(*bolt.Bucket) error { return nil })
		var w blockWriter
		model := map[uint64]text{}
		first := uint64(rapid.IntRange(1, 300).Draw(rt, "first"))
		last := first - 1
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				run := make([]text, rapid.IntRange(1, 600).Draw(rt, "records"))
				size := rapid.SampledFrom([]int{0, 1, 30, 500, 20000}).Draw(rt, "size")
				if size > 500 {
					run = run[:min(len(run), 4)]
				}
				want := int64(0)
				for i := range run {
					run[i] = append(bytes.Repeat([]byte{byte(last)}, size), fmt.Sprint(last+1+uint64(i))...)
					model[last+1+uint64(i)] = run[i]
					want += int64(len(run[i]) + crcSize)
				}
				change(func(b *bolt.Bucket) error {
					have, err := putRecords(&w, b, last+1, run)
					if have != want {
						rt.Fatalf("%d bytes, not %d", have, want)
					}
					return err
				})
				last += uint64(len(run))
			},
			"drop before": func(rt *rapid.T) {
				n := rapid.Uint64Range(first, last+1).Draw(rt, "n")
				change(func(b *bolt.Bucket) error { return dropBefore(b, n) })
				for ; first < n; first++ {
					delete(model, first)
				}
			},
			"drop after": func(rt *rapid.T) {
				n := rapid.Uint64Range(first-1, last).Draw(rt, "n")
				change(func(b *bolt.Bucket) error { return dropAfter(b, n) })
				for ; last > n; last-- {
					delete(model, last)
				}
			},
			"": func(rt *rapid.T) {
				_ = db.View(func(tx *bolt.Tx) error {
					up, down := readRecords(tx.Bucket(bucket), true), readRecords(tx.Bucket(bucket), true)
					look := func(r *reader, n uint64) {
						body, ok := unseal(beKey(n), r.get(n))
						if want, stored := model[n]; ok != stored || !bytes.Equal(body, want) {
							rt.Fatalf("record %d: %v %d bytes, not %v %d", n, ok, len(body), stored, len(want))
						}
					}
					for n := first - 1; n <= last+2; n++ {
						look(up, n)
						look(down, last+2-(n-(first-1)))
					}
					return nil
				})
			},
		})
	})
}

// TestBlocksStayNearTheirSize: what a commit writes is about what it adds, however much is added at once.
func TestBlocksStayNearTheirSize(t *testing.T) {
	t.Parallel()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "blocks.db"), 0o600, options())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var w blockWriter
	run := make([]text, 500)
	for i := range run {
		run[i] = bytes.Repeat([]byte{'x'}, 600)
	}
	const commits = 20
	for i := range commits {
		if err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			_, err = putRecords(&w, b, uint64(1+i*len(run)), run)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	s := db.Stats()
	written, added := s.TxStats.GetPageAlloc(), int64(commits*len(run)*600)
	t.Logf("%d bytes of pages for %d bytes of records", written, added)
	if written > added*3/2 {
		t.Errorf("%d bytes of pages were written for %d bytes of records", written, added)
	}
}
