#!/usr/bin/env bash
# Measure a ring of real agents beside what this machine's disk and network can do at all.
#
#   scripts/bench.sh BIN [FLAG...]     what `make bench` calls; BIN is the built binary
#
# Prints a table and, at the end, which aims were missed; takes about seven minutes. Flags go to scripts/bench:
# -only bare,throughput,slow,visible,idle,start,failover   -for 5s   -idle 30s   -rounds 5   -dir DIR   -profiles DIR
# -sync 1ms   holds every fsync back by as much, the floor's as well: a disk without a write-back cache. The part "slow" does so
#             with 2ms for the publishers that wait for each event.
# What has an aim is done three times; the median counts.
# The data is put under -dir, or TMPDIR: it should be the disk that agents would have. Run it on a quiet machine: the load
# is printed with every section, and ratios to the floors say more than rates.
set -euo pipefail
BIN=$(cd "$(dirname "${1:?usage: scripts/bench.sh BIN [FLAG...]}")" && pwd)/$(basename "$1")
cd "$(dirname "$0")/.."
shift
# The same tags and profile as the binary that is measured: the agents that publish from inside are built from the same sources.
PROGRAM=$(mktemp -d)
trap 'rm -rf "$PROGRAM"' EXIT
"${GO:-go}" build -trimpath -tags hashicorpmetrics -ldflags '-s -w' -pgo=cmd/ringagent/load.pgo \
  -o "$PROGRAM/bench" ./scripts/bench
"$PROGRAM/bench" -bin "$BIN" "$@"
