package gossip

import (
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/ringagent/ringagent/internal/id"
)

// delegate is memberlist's callbacks. None of them blocks: each touches a map and returns.
type delegate struct {
	self   id.Node
	boot   id.Boot
	roster Roster
	table  *table
	double func(boot id.Boot, address string)

	mu     sync.Mutex
	meta   []byte
	claims claims
}

// claims counts what gossip says about this node that this node did not say.
type claims struct {
	boot        id.Boot
	first, last time.Time
	count       int
}

const (
	claimsNeeded = 5
	claimsSpan   = 10 * time.Second
	claimsReset  = 30 * time.Second
)

var (
	_ memberlist.Delegate      = (*delegate)(nil)
	_ memberlist.EventDelegate = (*delegate)(nil)
	_ memberlist.AliveDelegate = (*delegate)(nil)
	_ memberlist.PingDelegate  = (*delegate)(nil)
)

// NodeMeta implements memberlist.Delegate.
func (d *delegate) NodeMeta(limit int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.meta) > limit {
		return nil
	}
	return d.meta
}

// goodbyePrefix begins the message by which a node says that it leaves on purpose.
const goodbyePrefix = "bye/1 "

// NotifyMsg implements memberlist.Delegate.
func (d *delegate) NotifyMsg(b []byte) {
	text, ok := strings.CutPrefix(string(b), goodbyePrefix)
	if !ok {
		return
	}
	node, boot, ok := strings.Cut(text, " ")
	if ok {
		d.table.bye(id.Node(node), id.Boot(boot))
	}
}

// GetBroadcasts implements memberlist.Delegate: nothing but membership is gossiped.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (d *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (d *delegate) MergeRemoteState([]byte, bool) {}

// NotifyJoin implements memberlist.EventDelegate.
func (d *delegate) NotifyJoin(n *memberlist.Node) { d.note(n, id.Node(n.Name) != d.self) }

// NotifyUpdate implements memberlist.EventDelegate.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.note(n, false) }

func (d *delegate) note(n *memberlist.Node, joined bool) {
	// NotifyAlive has seen to it that the facts can be read.
	meta, err := DecodeMeta(n.Meta)
	if err == nil {
		d.table.set(id.Node(n.Name), meta, joined)
	}
}

// NotifyLeave implements memberlist.EventDelegate.
func (d *delegate) NotifyLeave(n *memberlist.Node) { d.table.gone(id.Node(n.Name)) }

// NotifyAlive decides whether memberlist may believe that a node is there.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	node, err := id.ParseNode(n.Name)
	if err != nil {
		return err //nolint:wrapcheck // memberlist says what it ignores
	}
	if n.Port != constantPort || !n.Addr.Equal(constantIP(node)) {
		return errors.New("its address is not the one made of its id")
	}
	meta, err := DecodeMeta(n.Meta)
	if err != nil {
		return err
	}
	if node == d.self {
		d.claimed(meta)
		return nil
	}
	if err := d.roster.Admits(node, meta.Class); err != nil {
		return err //nolint:wrapcheck // memberlist says what it ignores
	}
	d.table.trust(node)
	return nil
}

// NotifyPingComplete implements memberlist.PingDelegate.
func (d *delegate) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	d.table.trust(id.Node(n.Name))
}

// AckPayload implements memberlist.PingDelegate.
func (d *delegate) AckPayload() []byte { return nil }

// claimed looks at what others say about this node. After a restart that is the previous boot for a moment, until this
// one's word has gone round; when another boot keeps being claimed, another machine may use this identity, and is to be
// looked for.
func (d *delegate) claimed(meta Meta) {
	if meta.Boot == d.boot {
		return
	}
	now := time.Now()
	d.mu.Lock()
	c := &d.claims
	if c.boot != meta.Boot || now.Sub(c.last) > claimsReset {
		*c = claims{boot: meta.Boot, first: now}
	}
	c.last = now
	c.count++
	kept := c.count >= claimsNeeded && now.Sub(c.first) >= claimsSpan
	if kept {
		*c = claims{}
	}
	d.mu.Unlock()
	if kept {
		d.double(meta.Boot, meta.Address)
	}
}
