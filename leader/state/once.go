package state

import (
	"encoding/json"
	"fmt"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// onceRow is the answer to a command that named a once key.
type onceRow struct {
	Kind   Kind            `json:"kind"`
	Result json.RawMessage `json:"result"`
	Order  uint64          `json:"order"`
}

// wireResult is a Result with its value still encoded.
type wireResult struct {
	Index   uint64          `json:"index"`
	Code    Code            `json:"code,omitempty"`
	Message string          `json:"message,omitempty"`
	Seqs    []uint64        `json:"seqs,omitempty"`
	Value   json.RawMessage `json:"value,omitempty"`
}

func (t *txn) remember(res Result) error {
	if t.cmd.Once == "" {
		return nil
	}
	b, err := marshal(res)
	if err != nil {
		return fmt.Errorf("keep result: %w", err)
	}
	row := onceRow{t.cmd.Kind, b, t.s.next()}
	t.s.once.put(t.cmd.Once, row)
	t.s.onceOrder.put(ordered(row.Order), t.cmd.Once)
	for t.s.once.len() > keptOnce {
		k, key, _ := t.s.onceOrder.first()
		t.s.onceOrder.del(k)
		t.s.once.del(key)
	}
	return nil
}

// result is the kept answer; the same key for another kind of command is a conflict.
func (r onceRow) result(k Kind) (Result, error) {
	if r.Kind != k {
		return Result{Code: CodeConflict, Message: fmt.Sprintf("the once key was used by a command of kind %d", r.Kind)}, nil
	}
	return DecodeResult(k, r.Result)
}

// DecodeResult reads the JSON of a Result and gives its Value the type that Apply gives it for that kind of command. The
// values of an Effect stay raw JSON, one json.RawMessage a step.
func DecodeResult(k Kind, b []byte) (Result, error) {
	var w wireResult
	if err := json.Unmarshal(b, &w); err != nil {
		return Result{}, fmt.Errorf("decode result: %w", err)
	}
	r := Result{Index: w.Index, Code: w.Code, Message: w.Message, Seqs: w.Seqs}
	if len(w.Value) == 0 || string(w.Value) == "null" {
		return r, nil
	}
	var err error
	switch k {
	case KindEvents:
		r.Value, err = valueAs[[]AppendResult](w.Value)
	case KindEnrol, KindReport, KindStatus, KindRevoke:
		r.Value, err = valueAs[ring.Member](w.Value)
	case KindAssign:
		r.Value, err = valueAs[ring.Assignment](w.Value)
	case KindEnqueue:
		r.Value, err = valueAs[[]ring.WorkItem](w.Value)
	case KindClaim, KindStarted, KindFinish, KindRelease, KindCancel, KindRetry:
		r.Value, err = valueAs[ring.WorkItem](w.Value)
	case KindArtifacts, KindReceipts:
		r.Value, err = valueAs[[]id.Digest](w.Value)
	case KindName:
		r.Value, err = valueAs[ring.Name](w.Value)
	case KindSettings:
		r.Value, err = valueAs[uint64](w.Value)
	case KindEffect:
		var raw []json.RawMessage
		err = json.Unmarshal(w.Value, &raw)
		values := make([]any, len(raw))
		for i, v := range raw {
			values[i] = v
		}
		r.Value = values
	default:
		r.Value = w.Value
	}
	if err != nil {
		return Result{}, fmt.Errorf("decode result of kind %d: %w", k, err)
	}
	return r, nil
}

func valueAs[T any](raw json.RawMessage) (any, error) {
	var v T
	err := json.Unmarshal(raw, &v)
	return v, err
}
