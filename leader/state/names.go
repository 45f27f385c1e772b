package state

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

const maxKey = 256 // bytes of a name, a note's key, a consumer …

func (t *txn) setName(b SetName) (any, error) {
	if b.Key == "" || len(b.Key) > maxKey {
		return nil, refuse(CodeInvalid, "name of %d bytes: want 1 to %d", len(b.Key), maxKey)
	}
	cur, _ := t.s.names.get(b.Key)
	if err := t.m.rules.expect(cur.Version, b.Expect); err != nil {
		return nil, err
	}
	a, ok := t.s.artifact(b.Digest)
	if !ok {
		return nil, refuse(CodeRefused, "artifact %s is unknown", b.Digest.Short())
	}
	config, model := strings.CutPrefix(b.Key, ring.ModelName(""))
	if model && (a.Kind != ring.KindModel || a.Config != id.Config(config)) {
		return nil, refuse(CodeRefused, "%s is no model of %s", b.Digest.Short(), config)
	}
	n := ring.Name{Key: b.Key, Version: cur.Version + 1, Digest: b.Digest, Previous: cur.Digest, At: t.at(), By: t.fence(),
		Values: b.Values}
	if cur.Version > 0 {
		past := ring.NameVersion{Version: cur.Version, Digest: cur.Digest, At: cur.At, Until: t.at(), Values: cur.Values}
		n.History = append(slices.Clone(cur.History), past)
		if len(n.History) > keptHistory {
			n.History = n.History[len(n.History)-keptHistory:]
		}
	}
	t.s.names.put(b.Key, n)
	if model {
		var delta any
		if now, ok := n.Values["elo"]; ok {
			if was, ok := cur.Values["elo"]; ok {
				delta = now - was
			}
		}
		t.fact(evPromoted, t.by(), map[string]any{
			"node_id": t.by(), "config_key": config, "version": n.Version, "sha256": n.Digest,
			"previous_sha256": orNull(n.Previous), "elo": number(n.Values, "elo"), "elo_delta": delta})
	}
	return n, nil
}

// checkPosition keeps a consumer from going back.
func checkPosition(have, want uint64) error {
	if want < have {
		return refuse(CodeConflict, "position %d is behind %d", want, have)
	}
	return nil
}

func (t *txn) setPositions(b SetPositions) error {
	for _, p := range b.Positions {
		if p.Consumer == "" || len(p.Consumer) > maxKey {
			return refuse(CodeInvalid, "consumer of %d bytes: want 1 to %d", len(p.Consumer), maxKey)
		}
		daemon, _, _ := strings.Cut(p.Consumer, "/")
		if err := t.fenced(daemon); err != nil {
			return err
		}
		cur, _ := t.s.positions.get(p.Consumer)
		if err := t.m.rules.position(cur.Seq, p.Seq); err != nil {
			return err
		}
		if p.Seq > t.s.meta.LogSeq {
			return refuse(CodeInvalid, "position %d of %s is beyond the log's end %d", p.Seq, p.Consumer, t.s.meta.LogSeq)
		}
		p.Epoch = t.fence().Epoch
		t.s.positions.put(p.Consumer, p)
	}
	return nil
}

// fenced demands the daemon's right if the daemon is a singleton, or if any right was presented.
func (t *txn) fenced(daemon string) error {
	if _, singleton := t.s.assignments.get(daemon); singleton || t.cmd.Fence != nil {
		return t.needFence(daemon)
	}
	return nil
}

func (t *txn) putNote(b PutNote) error {
	if t.cmd.Fence == nil {
		return refuse(CodeStale, "a note needs its daemon's epoch")
	}
	if b.Key == "" || len(b.Key) > maxKey {
		return refuse(CodeInvalid, "note key of %d bytes: want 1 to %d", len(b.Key), maxKey)
	}
	daemon := t.cmd.Fence.Daemon
	key := noteKey(daemon, b.Key)
	used, _ := t.s.notesBytes.get(daemon)
	if old, ok := t.s.notes.get(key); ok {
		used -= len(old.Key) + len(old.Value)
	}
	if len(b.Value) == 0 {
		t.s.notes.del(key)
		t.s.notesBytes.put(daemon, used)
		return nil
	}
	// Kept without blanks: a snapshot writes it so, and the limits must come out the same after a restore.
	var value bytes.Buffer
	if err := json.Compact(&value, b.Value); err != nil {
		return refuse(CodeInvalid, "note %s is not JSON: %v", b.Key, err)
	}
	used += len(b.Key) + value.Len()
	switch {
	case value.Len() > MaxNote:
		return refuse(CodeRefused, "note %s has %d bytes: at most %d", b.Key, value.Len(), MaxNote)
	case used > MaxNotes:
		return refuse(CodeRefused, "notes of %s would have %d bytes: at most %d", daemon, used, MaxNotes)
	}
	t.s.notes.put(key, ring.Note{Daemon: daemon, Key: b.Key, Value: value.Bytes(), Epoch: t.cmd.Fence.Epoch})
	t.s.notesBytes.put(daemon, used)
	return nil
}

func (t *txn) putDeadLetter(b PutDeadLetter) error {
	l := b.Letter
	if l.ID == "" || len(l.ID) > maxKey {
		return refuse(CodeInvalid, "dead letter id of %d bytes: want 1 to %d", len(l.ID), maxKey)
	}
	_, exists := t.s.letters.get(l.ID)
	if b.Drop {
		if !exists {
			return refuse(CodeNotFound, "dead letter %s is unknown", l.ID)
		}
		t.s.letters.del(l.ID)
		return nil
	}
	daemon, _, _ := strings.Cut(l.Handler, "/")
	if err := t.fenced(daemon); err != nil {
		return err
	}
	if !exists && t.s.letters.len() >= MaxDeadLetters {
		return refuse(CodeRefused, "%d dead letters are kept at most: retry or drop some", MaxDeadLetters)
	}
	t.s.letters.put(l.ID, l)
	return nil
}
