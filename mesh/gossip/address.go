package gossip

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/ringagent/ringagent/internal/id"
)

// memberlist thinks in addresses and takes a changed one for a conflict. So each node has a constant address made of its
// node id, in a private range that is never dialled: where the node really is, is Dial's business.
const constantPort = 1

var addressPrefix = [8]byte{0xfd, 'r', 'i', 'n', 'g', 0, 0, 0}

// constantIP is the node's address for memberlist; nil for an id that is not well formed.
func constantIP(node id.Node) net.IP {
	raw, err := hex.DecodeString(string(node))
	if err != nil || len(raw) != 8 {
		return nil
	}
	return append(net.IP(addressPrefix[:]), raw...)
}

// constantAddress is the same as host:port.
func constantAddress(node id.Node) string {
	return net.JoinHostPort(constantIP(node).String(), strconv.Itoa(constantPort))
}

// nodeAt reads the node id back.
func nodeAt(address string) (id.Node, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return "", fmt.Errorf("read constant address: %w", err)
	}
	raw := at.Addr().As16()
	if [8]byte(raw[:8]) != addressPrefix {
		return "", fmt.Errorf("read constant address: %s is not of a node", address)
	}
	return id.Node(hex.EncodeToString(raw[8:])), nil
}
