package rpc

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/wire"
)

// Who asks says how much may be answered, and reads no more.
func TestAnswerLargerThanWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, id.Core, Hooks{})
		defer w.stop()
		say := func(_ context.Context, r *Request) (any, error) { return strings.Repeat("x", len(r.Body)-4), nil } // as JSON as long as the question
		w.server.Handle("m", Everybody, say)
		w.client.local.Handle("m", Everybody, say)
		for _, node := range []id.Node{w.node, w.client.self.Node} {
			for size, want := range map[int]wire.Code{1000: "", 1001: wire.CodeInvalid} {
				var out string
				err := w.client.CallWithin(t.Context(), node, "m", strings.Repeat("y", size), &out, 1000)
				if wire.CodeOf(err) != want {
					t.Errorf("%d bytes: %v", size, err)
				}
			}
		}
	})
}
