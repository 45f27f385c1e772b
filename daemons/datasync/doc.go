// Package datasync holds the daemons that move data: games off the nodes that played them (EPHEMERAL_SYNC on edge nodes,
// AUTO_SYNC on core nodes), datasets to the nodes that train (NPZ_DISTRIBUTION), champions to the nodes that play
// (MODEL_DISTRIBUTION).
//
// It owns which games of this node are packed and which of them are safe; a game is safe when the state has the receipts.
// On core nodes it owns the merged databases and, beside them, which games several packs have, and it joins old packs into larger
// ones. It deletes nothing but what it makes of packs itself, a damaged merged database only once it is in quarantine, and by
// permit its copies of packs that were joined. It opens no game database but through internal/gamedb. The registry lists its daemons. Concurrency: a step at a time, by the kit's Loop; transfers run beside it in
// the kit's Courier.
package datasync
