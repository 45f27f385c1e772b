package wire

import (
	"context"
	"time"
)

// doublePatience is how long the agent that a node was known by gets to show that it is still there.
const doublePatience = 2 * time.Second

// checkDouble refuses a second agent with one identity. A new boot of a node is the everyday case, a machine that was
// restarted; so the agent of the boot that was known is called at its addresses, and only if it answers is there a double.
// Then the one that started first keeps the identity.
func (e *Endpoint) checkDouble(ctx context.Context, c *Conn) error {
	known, differs := e.tracker.other(c.peer.Node, c.peer.Boot)
	if !differs || c.started < known.started {
		return nil
	}
	var hints []string
	if entry, ok := e.cfg.Roster.Lookup(c.peer.Node); ok {
		hints = entry.Addresses
	}
	addresses := e.cfg.Book.candidates(c.peer.Node, hints)
	ctx, cancel := context.WithTimeout(ctx, doublePatience)
	defer cancel()
	found := make(chan string, len(addresses))
	for _, addr := range addresses {
		go func() {
			there, err := e.dialOne(ctx, c.peer.Node, RPC, addr)
			if err != nil {
				found <- ""
				return
			}
			_ = there.NetConn().Close()
			if there.peer.Boot != known.boot {
				addr = ""
			}
			found <- addr
		}()
	}
	for range addresses {
		if addr := <-found; addr != "" {
			return errDouble(c.peer.Node, addr)
		}
	}
	return nil
}
