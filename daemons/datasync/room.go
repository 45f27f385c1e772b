package datasync

import (
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
)

// The replicated state has room for so many artifacts, most of which are packs. They are joined when they are old, but that may be
// switched off, or not keep up, and joined packs stay. A ring that is full takes no game, dataset or model any more. So a node packs
// as soon as it likes while the ring is young, and in larger packs, less often, when a quarter of the room is used: such that
// what is left would last for another month at that pace. That makes it last for two months at least, for hundreds of nodes.
const (
	lastFor    = 30 * 24 * time.Hour
	longestGap = 4 * time.Hour // what a machine that vanishes may take with it has a bound, too
	crowded    = 20            // times as many games may be in one pack then
)

// packGap is how long a node waits from one pack of a config to its next.
func packGap(room *kit.Room, nodes, configs int) time.Duration {
	if room == nil || room.Left > room.Of/4*3 {
		return 0
	}
	perPack := lastFor / time.Duration(max(1, room.Left))
	return min(longestGap, perPack*time.Duration(max(1, nodes)*max(1, configs)))
}

// gap is the least time between two packs of a config here, and most how many games one may have.
func (g *gatherer) gap() (gap time.Duration, most int) {
	if gap = g.set.MinGap.D(); g.spacing <= gap {
		return gap, g.set.MaxGames
	}
	return g.spacing, crowded * g.set.MaxGames
}

// notice looks how crowded the state is.
func (g *gatherer) notice(v kit.View) {
	nodes := 0
	for _, m := range v.Fleet.Members() {
		if m.Serves() {
			nodes++
		}
	}
	g.spacing = packGap(v.Room, nodes, len(v.Ring.Configs))
	gap, _ := g.gap()
	g.gauge("pack_gap_seconds", gap.Seconds())
}
