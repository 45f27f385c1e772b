package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestUnknownCommandsAreErrors(t *testing.T) {
	t.Parallel()
	good, err := Encode(Command{Kind: KindLead, At: epochStart, Body: Lead{Node: nodeA, Term: 1}})
	if err != nil {
		t.Fatal(err)
	}
	with := func(i int, c byte) []byte { b := bytes.Clone(good); b[i] = c; return b }
	raise, _ := Encode(Command{Kind: KindRaise, At: epochStart, Body: Raise{Commands: Version + 1}})
	for name, entry := range map[string][]byte{
		"empty": nil, "newer format": with(0, format+1), "newer kind": with(1, 200), "kind 0": with(1, 0),
		"newer field": bytes.Replace(good, []byte(`"term"`), []byte(`"x":1,"term"`), 1), "cut": good[:len(good)-1],
		"newer command version": raise, "garbage events": {format, byte(KindEvents), 0xff},
		"step that is no step": append([]byte{format, byte(KindEffect)}, `{"at":"2026-01-01T00:00:00Z","body":{"steps":[{"kind":27,"body":{}}]}}`...),
	} {
		m := New()
		if _, _, err := m.Apply(1, entry); !errors.Is(err, ErrUnknownCommand) {
			t.Errorf("%s: %v", name, err)
		}
		if m.View().Index() != 0 {
			t.Errorf("%s: the state moved", name)
		}
	}
	m := New()
	if _, _, err := m.Apply(5, good); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Apply(5, good); !errors.Is(err, ErrReplayed) {
		t.Errorf("the same index again: %v", err)
	}
	if _, err := Encode(Command{Kind: KindNote, Body: Lead{}}); err == nil {
		t.Error("a body of another kind was encoded")
	}
	if _, err := Encode(Command{Kind: KindNote, Body: PutNote{Key: "k", Value: make([]byte, MaxEntry)}}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

// golden is the log of version 1 as it was written when it was new: [length, entry]…, and the digest of its state.
const goldenLog, goldenDigest = "v1.log", "v1.sha256"

// TestOldLogStaysReadable fails when the meaning or the form of an entry changes. That needs a new command version, never a
// new fixture; RINGAGENT_GOLDEN=new writes one where there is none yet.
func TestOldLogStaysReadable(t *testing.T) {
	t.Parallel()
	path := func(f string) string { return filepath.Join("testdata", f) }
	if os.Getenv("RINGAGENT_GOLDEN") == "new" {
		writeGolden(t, path(goldenLog), path(goldenDigest))
	}
	data, err := os.ReadFile(path(goldenLog))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(path(goldenDigest))
	if err != nil {
		t.Fatal(err)
	}
	m := New()
	kinds := map[byte]bool{}
	r := bytes.NewReader(data)
	for i := uint64(1); ; i++ {
		n, err := binary.ReadUvarint(r)
		if err == io.EOF {
			break
		}
		entry := make([]byte, n)
		if _, err2 := io.ReadFull(r, entry); err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		res, _, err := m.Apply(i, entry)
		if err != nil {
			t.Fatal(err)
		}
		if res.Code == "" {
			kinds[entry[1]] = true
		}
	}
	if got := Digest(m.View()); got != strings.TrimSpace(string(want)) {
		t.Errorf("digest %s, want %s", got, want)
	}
	for k := KindEvents; k <= KindEffect; k++ { // the property test draws from the same entries
		if !kinds[byte(k)] {
			t.Errorf("no entry of kind %d was accepted: the fixture says nothing of it", k)
		}
	}
}

func writeGolden(t *testing.T, log, digest string) {
	if _, err := os.Stat(log); err == nil {
		t.Fatal("there is a golden log already, and it must stay")
	}
	var out []byte
	m := New()
	for seed, kinds := 1, map[byte]bool{}; len(kinds) < int(KindEffect); seed++ { // until the log says something of each kind
		m, out, kinds = New(), nil, map[byte]bool{}
		for i, e := range rapid.Custom(func(rt *rapid.T) [][]byte { return randomEntries(rt, 600) }).Example(seed) {
			res, _, err := m.Apply(uint64(i+1), e)
			if err != nil {
				t.Fatal(err)
			}
			if res.Code == "" {
				kinds[e[1]] = true
			}
			out = append(binary.AppendUvarint(out, uint64(len(e))), e...)
		}
	}
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(log, out, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(digest, []byte(Digest(m.View())+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestNoClockNoIO reads the package's own source: what Apply may not use is not even imported.
func TestNoClockNoIO(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, no := range []string{"time.Now", "time.Since", "time.Until", "time.Local", "math/rand", "crypto/rand", `"os"`, `"net"`, "zerolog", "hashicorp/raft\"", "go func"} {
			if bytes.Contains(src, []byte(no)) {
				t.Errorf("%s uses %s", f, no)
			}
		}
	}
}
