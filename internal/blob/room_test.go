package blob

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/ringagent/ringagent/internal/id"
)

// A copy that would fill the disk is not begun.
func TestPutFileIsNotBegunWithoutRoom(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	data := make([]byte, 1000)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	unknown := errors.New("deliberate")
	for name, c := range map[string]struct {
		free int64
		err  error
		want error
	}{
		"room":              {2000, nil, nil},
		"a byte too little": {1999, nil, ErrNoSpace},
		"nobody knows":      {0, unknown, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			s.free = func(string) (int64, error) { return c.free, c.err }
			begun := false
			s.stage = func(f *os.File) io.Writer {
				begun = true
				return f
			}
			_, _, err := s.PutFile(t.Context(), path)
			if !errors.Is(err, c.want) || begun != (c.want == nil) || s.Has(id.DigestOf(data)) != begun {
				t.Errorf("%v, begun %v", err, begun)
			}
			s.free = func(string) (int64, error) { return 0, nil }
			if _, _, err := s.PutFile(t.Context(), path); err != nil && c.want == nil {
				t.Errorf("what is there takes no room: %v", err)
			}
		})
	}
}
