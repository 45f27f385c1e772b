package state

import (
	"encoding/binary"
	"iter"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// table is a persistent ordered map. Its methods return a changed table and leave the old one as it was, so that a copy
// of a State is a snapshot.
type table[T any] struct{ t *iradix.Tree[T] }

func newTable[T any]() table[T] { return table[T]{iradix.New[T]()} }

func (t table[T]) len() int { return t.t.Len() }

func (t table[T]) get(key string) (T, bool) { return t.t.Get([]byte(key)) }

func (t *table[T]) put(key string, v T) { t.t, _, _ = t.t.Insert([]byte(key), v) }

func (t *table[T]) del(key string) { t.t, _, _ = t.t.Delete([]byte(key)) }

// all walks in order of key.
func (t table[T]) all() iter.Seq2[string, T] { return t.prefix("") }

// prefix walks the keys that begin with p, in order.
func (t table[T]) prefix(p string) iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		it := t.t.Root().Iterator()
		it.SeekPrefix([]byte(p))
		for k, v, ok := it.Next(); ok; k, v, ok = it.Next() {
			if !yield(string(k), v) {
				return
			}
		}
	}
}

// from walks the keys that are not below k, in order.
func (t table[T]) from(k string) iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		it := t.t.Root().Iterator()
		it.SeekLowerBound([]byte(k))
		for k, v, ok := it.Next(); ok; k, v, ok = it.Next() {
			if !yield(string(k), v) {
				return
			}
		}
	}
}

// first is the entry with the lowest key.
func (t table[T]) first() (string, T, bool) {
	k, v, ok := t.t.Root().Minimum()
	return string(k), v, ok
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
