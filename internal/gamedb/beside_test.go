package gamedb

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A job that leaves a pipe where SQLite looks for a file does not stop whoever gathers the games of all jobs.
func TestPipesBesideADatabase(t *testing.T) {
	t.Parallel()
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		for kind, make := range map[string]func(path string) error{
			"pipe": func(path string) error { return syscall.Mkfifo(path, 0o600) },
			"link": func(path string) error { return os.Symlink("/dev/zero", path) },
		} {
			t.Run(kind+" "+suffix, func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(t.TempDir(), "games.db")
				writeGames(t, path, sampleGame(1))
				if err := make(path + suffix); err != nil {
					t.Fatal(err)
				}
				for name, look := range map[string]func(context.Context, string) error{
					"finished": func(ctx context.Context, path string) error { _, err := Finished(ctx, path); return err },
					"count":    func(ctx context.Context, path string) error { _, err := Count(ctx, path); return err },
					"usable":   Usable,
				} {
					if err := look(t.Context(), path); !Damaged(err) {
						t.Errorf("%s: %v", name, err)
					}
				}
			})
		}
	}
}
