package agent

import (
	"context"
	"errors"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
	"github.com/ringagent/ringagent/mesh"
)

// meshError puts an error of the mesh into the words of the command line.
func meshError(err error) error {
	var e *mesh.Error
	if !errors.As(err, &e) {
		return err
	}
	return &api.Error{Code: apiCode(e.Code), Message: e.Message, Hint: e.Hint}
}

func apiCode(c mesh.Code) api.Code {
	switch c {
	case mesh.CodeNoQuorum, mesh.CodeNotLeader:
		return api.CodeNoQuorum
	case mesh.CodeConflict:
		return api.CodeConflict
	case mesh.CodeStaleEpoch:
		return api.CodeStale
	case mesh.CodeNotFound:
		return api.CodeNotFound
	case mesh.CodeRefused, mesh.CodeNameTaken, mesh.CodeDuplicate:
		return api.CodeRefused
	case mesh.CodeInvalid:
		return api.CodeInvalid
	case mesh.CodeUnavailable:
		return api.CodeUnreachable
	case mesh.CodeTimeout:
		return api.CodeTimeout
	case mesh.CodeBusy:
		return api.CodeBusy
	case mesh.CodeUnauthorised, mesh.CodeTokenUsed, mesh.CodeTokenWrong, mesh.CodeTokenExpired, mesh.CodeTokenRevoked, mesh.CodeTokenClass,
		mesh.CodeForeignRing, mesh.CodeRevoked, mesh.CodeUnknownNode, mesh.CodeExpired:
		return api.CodeUnauthorised
	}
	return api.CodeFailed
}

// decided puts an error of the leader into the words of the command line.
func decided(err error) error {
	var refused *leader.Refused
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return api.Errorf(refusal(state.Code(refused.Code)), "%s", refused.Message)
	case errors.Is(err, leader.ErrNoCoordinator), errors.Is(err, kit.ErrNoCoordinator):
		return api.Errorf(api.CodeNoQuorum, "no coordinator: nothing can be decided now").
			WithHint("a majority of the voters must be up; see: ringagent leader")
	case errors.Is(err, leader.ErrUnknownOutcome), errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(api.CodeTimeout, "no answer in time; what became of the request is unknown")
	}
	return meshError(err)
}

func refusal(c state.Code) api.Code {
	switch c {
	case state.CodeStale:
		return api.CodeStale
	case state.CodeConflict:
		return api.CodeConflict
	case state.CodeNotFound:
		return api.CodeNotFound
	case state.CodeInvalid:
		return api.CodeInvalid
	case state.CodeUnauth:
		return api.CodeUnauthorised
	}
	return api.CodeRefused
}
