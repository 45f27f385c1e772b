package agent

import (
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
)

// EpochOf is the epoch that a daemon's commands carry, 0 without a fence.
func EpochOf(e kit.Effects) id.Epoch {
	if f := e.(effects).fence; f != nil {
		return f.Epoch
	}
	return 0
}
