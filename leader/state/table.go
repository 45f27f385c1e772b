package state

import (
	"encoding/binary"
	"iter"
	"strings"

	"github.com/google/btree"
)

// table is a persistent ordered map: a copy of a State is a snapshot of its tables. A table that was shared copies the few
// nodes that a change touches; one that the entry at hand has changed already is changed in place.
//
// It is a B-tree and not a radix tree because of its weight: a hundred thousand artifacts take a third of the memory.
type table[T any] struct {
	t     *btree.BTreeG[pair[T]]
	owned bool // no State but the one being made has this tree
}

type pair[T any] struct {
	key string
	val *T
}

func newTable[T any]() table[T] {
	return table[T]{t: btree.NewG(16, func(a, b pair[T]) bool { return a.key < b.key })}
}

func (t *table[T]) len() int { return t.t.Len() }

func (t *table[T]) get(key string) (T, bool) {
	p, ok := t.t.Get(pair[T]{key: key})
	if !ok {
		var zero T
		return zero, false
	}
	return *p.val, true
}

func (t *table[T]) put(key string, v T) {
	t.own()
	t.t.ReplaceOrInsert(pair[T]{key, &v})
}

func (t *table[T]) del(key string) {
	t.own()
	t.t.Delete(pair[T]{key: key})
}

func (t *table[T]) own() {
	if !t.owned {
		t.t, t.owned = t.t.Clone(), true
	}
}

// share ends changing in place. A shared table is not written to, so that many may call it.
func (t *table[T]) share() {
	if t.owned {
		t.owned = false
	}
}

// all walks in order of key. What is put or deleted on the way is not seen.
func (t *table[T]) all() iter.Seq2[string, T] { return t.from("") }

// prefix walks the keys that begin with p, in order.
func (t *table[T]) prefix(p string) iter.Seq2[string, T] {
	seq := t.from(p)
	return func(yield func(string, T) bool) {
		for k, v := range seq {
			if !strings.HasPrefix(k, p) || !yield(k, v) {
				return
			}
		}
	}
}

// from walks the keys that are not below k, in order.
func (t *table[T]) from(k string) iter.Seq2[string, T] {
	t.share() // the walk keeps this tree: a later change must not be in place
	tree := t.t
	return func(yield func(string, T) bool) {
		tree.AscendGreaterOrEqual(pair[T]{key: k}, func(p pair[T]) bool { return yield(p.key, *p.val) })
	}
}

// back walks the keys that begin with p from the last to the first. P must not end with the highest byte.
func (t *table[T]) back(p string) iter.Seq2[string, T] {
	t.share() // as from does
	tree := t.t
	next := p[:len(p)-1] + string(p[len(p)-1]+1)
	return func(yield func(string, T) bool) {
		tree.DescendLessOrEqual(pair[T]{key: next}, func(e pair[T]) bool {
			if e.key == next {
				return true
			}
			return strings.HasPrefix(e.key, p) && yield(e.key, *e.val)
		})
	}
}

// first is the entry with the lowest key.
func (t *table[T]) first() (string, T, bool) {
	p, ok := t.t.Min()
	if !ok {
		var zero T
		return "", zero, false
	}
	return p.key, *p.val, true
}

// values is the values of seq without their keys.
func values[T any](seq iter.Seq2[string, T]) iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, v := range seq {
			if !yield(v) {
				return
			}
		}
	}
}

// ordered is a key that sorts like n.
func ordered(n uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	return string(b[:])
}
