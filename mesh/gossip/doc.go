// Package gossip says who is there: memberlist over streams of the ring's own, members with their status and small facts,
// and the loop that brings separated parts together again.
//
// It owns membership as gossip sees it, which is advice: nothing destructive may follow from it alone. It must not know
// how a node is reached (it is given a Dial) or who belongs to the ring (it asks a Roster). It is called by package mesh.
// memberlist's callbacks only touch a map and never block; all exported methods are safe for concurrent use.
package gossip
