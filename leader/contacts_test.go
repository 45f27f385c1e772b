package leader

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// Who was just given a seat, or is being given a snapshot, answers nothing and is not gone.
func TestQuietCountsSigns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const term = 3
		var c contacts
		began := time.Now()
		want := func(what string, d time.Duration) {
			t.Helper()
			if got := c.quiet(oneNode, term, began); got != d {
				t.Errorf("%s: quiet for %s, want %s", what, got, d)
			}
		}
		time.Sleep(time.Minute)
		want("never heard", time.Minute)
		c.answered(oneNode, term-1, time.Now())
		want("heard in the term before", time.Minute)
		c.sign(oneNode)
		want("given a seat", 0)
		time.Sleep(time.Second)
		want("a second later", time.Second)
		c.answered(oneNode, term, time.Now())
		want("heard", 0)
		time.Sleep(time.Minute)
		part := noted{bytes.NewReader(make([]byte, 8)), func() { c.sign(oneNode) }}
		if _, err := io.ReadFull(part, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		want("given a part of a snapshot", 0)
		time.Sleep(time.Second)
		if _, err := io.ReadAll(part); err != nil {
			t.Fatal(err)
		}
		want("given the rest", 0)
		if c.lately(oneNode, term, time.Second) || c.quorum(twoNode, []id.Node{oneNode, twoNode}, term, time.Now().Add(-time.Second)) {
			t.Error("a sign is taken for an answer")
		}
	})
}
