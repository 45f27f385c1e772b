package supervise

import "context"

// leaseKey finds, in the context of a run and in all that are made of it, the lease under which it runs.
type leaseKey struct{}

// Entitled says whether whoever acts under ctx may still do so: nil outside of a daemon's run, and for as long as the run's
// lease is good. It asks the lease, and the lease its clock. The Err of ctx itself does not: it tells what somebody has
// noticed, and a daemon that wakes in mid-step after the machine has slept acts before anybody can.
func Entitled(ctx context.Context) error {
	lease, ok := ctx.Value(leaseKey{}).(context.Context)
	if !ok || lease.Err() == nil {
		return nil
	}
	return context.Cause(lease)
}
