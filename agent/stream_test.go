package agent

import (
	"testing"

	"github.com/ringagent/ringagent/mesh"
)

// Behind the last of all seqs there is nothing to wait for: a stream from there would turn round and round.
func TestNoStreamBehindTheLastSeq(t *testing.T) {
	t.Parallel()
	for body, ok := range map[string]bool{
		`{"after":18446744073709551615}`: false,
		`{"after":18446744073709551614}`: true,
		`{"after":0}`:                    true,
	} {
		_, err := (&Agent{}).serveStream(t.Context(), &mesh.Request{Body: []byte(body)})
		if ok != (err == nil) || !ok && !mesh.IsCode(err, mesh.CodeInvalid) {
			t.Errorf("%s: %v", body, err)
		}
	}
}
