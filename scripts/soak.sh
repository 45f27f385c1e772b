#!/usr/bin/env bash
# Break a ring of real processes in every promised way, again and again, and count.
#
#   scripts/soak.sh BIN          what `make soak` calls; BIN is the built binary
#
# Each round starts a fresh ring of five agents and runs the scenarios in it, one after the other:
#   failover    kill -9 of the coordinator in the middle of the loop
#   stopped     SIGSTOP of a node that holds singletons for five leases, then SIGCONT
#   publishers  five publishers on five nodes, EVENTS events between them, the coordinator killed twice
#   edge        an edge node killed and its directory deleted while it plays
# and once, in rings of their own:
#   attack      scripts/attack/*.sh: strangers, newcomers, liars, full disks, flipped bytes, the contract
#   strength    what the last champion is worth against the baselines and the untrained control
#
# ROUNDS (20), SCENARIOS (all) and EVENTS (10000) change the run, BASE_PORT the ports, KEEP=1 keeps the folders. The first
# promise that does not hold ends the run: exit 1, with what it was and where the logs are. What some round has to show, such
# as a coordinator that held singletons, is asked after the last one.
set -uo pipefail
BIN=$(cd "$(dirname "${1:?usage: scripts/soak.sh BIN}")" && pwd)/$(basename "$1")
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/soak-scenarios.sh"

rounds=${ROUNDS:-20}
scenarios=${SCENARIOS:-attack failover stopped publishers edge strength}
events=${EVENTS:-10000}

workspace soak
TOOL=$WORK/soak
(cd "$(dirname "$0")/.." && "${GO:-go}" build -trimpath -tags hashicorpmetrics -o "$TOOL" ./scripts/soak) || fail 'scripts/soak does not build'
for s in $scenarios; do
  case $s in attack | failover | stopped | publishers | edge | strength) ;; *) echo "SCENARIOS: no scenario $s" >&2; exit 2 ;; esac
done

# In a function, so that what the shell cannot work out, such as a number that is none, breaks all of it off, and not only the
# loop that it stands in.
main() {
  case " $scenarios " in *' attack '*) scenario_attack ;; esac
  in_ring=$(for s in $scenarios; do case $s in attack | strength) ;; *) echo "$s" ;; esac; done)
  for round in $(seq "$rounds"); do
    [ -n "$in_ring" ] || break
    say "round $round of $rounds"
    ring_start "round-$round" 30m
    await 120000 'the first promotion' promoted 1 n1
    figure 'first promotion, s' $(($(now) - STARTED))
    for s in $in_ring; do
      began=$(now)
      "scenario_$s" "$round"
      figure "$s in all, s" $(($(now) - began))
    done
    paid "$(other)"
    sound "$(other)"
    holds 'the ring stops and leaves no process behind' ring_stop
    figure 'a round in all, s' $(($(now) - STARTED))
    [ -n "$KEEP" ] || rm -rf "$RING" "$RING.log"
  done
  [ "$rounds" -eq 0 ] || case " $scenarios " in *' failover '*) seen 'failover: singletons that the victim held' ;; esac
  case " $scenarios " in *' strength '*) scenario_strength ;; esac

  echo
  echo "Done in $(secs $(($(now) - BEGAN))) s, $rounds rounds of: $(echo $in_ring); no promise was broken."
  figures
  exit 0
}

main
fail 'the run broke off in the middle: see above'
