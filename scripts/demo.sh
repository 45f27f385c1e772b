#!/usr/bin/env bash
# Watch five agents train a Connect Four player, and see what happens when the one that coordinates dies.
#
#   scripts/demo.sh BIN          what `make demo` calls; BIN is the built binary
#
# Starts a ring of five real processes in a temporary folder, shows how it goes, kills the coordinator with kill -9 after
# the first promotion, starts that agent again, and ends when everything below is shown. Exits 1, naming what did not hold
# and where the logs are, if something is missing or late. KEEP=1 keeps the folder, BASE_PORT=P takes other ports.
set -uo pipefail
BIN=$(cd "$(dirname "${1:?usage: scripts/demo.sh BIN}")" && pwd)/$(basename "$1")
. "$(dirname "$0")/lib.sh"

FIRST=90000 SECOND=240000   # ms from the ring's start to the first and the second promotion
ELECTION=15000              # to another coordinator; the soak run holds it to 4 s
MEMBER=30000                # to full membership of an agent that was started again

shown=()
show() {
  say "  shown: $*"
  shown+=("$*")
}
left() { echo $(($1 - ($(now) - STARTED))); }

# In a function, so that what the shell cannot work out, such as a number that is none, breaks all of it off, and not only its own
# line.
main() {
  workspace demo
  echo 'Five agents on this machine will play Connect Four against themselves, gather the games, train on them, measure'
  echo 'what comes out and promote what is better. After the first promotion the coordinator is killed with kill -9.'
  echo
  SHOW=1 ring_start ring 5m
  show "a ring of 5 nodes and 3 voters, $(secs $(($(now) - STARTED))) s after its start"

  await "$(left $FIRST)" 'the first promotion, within 90 s of the start' promoted 1 n1
  show "the first promotion after $(secs $(($(now) - STARTED))) s"

  victim=$(coordinator n1)
  [ -n "$victim" ] && [ "$victim" != - ] || fail 'no coordinator is known after the first promotion'
  witness=$(other "$victim" n4 n5) || fail 'no other voter is alive'
  boot=$(boot_of "$victim" "$witness")
  before=$(promotions "$witness")
  say "  kill -9 $(pid_of "$victim")   ($victim, the coordinator; $before promotions so far)"
  kill_agent "$victim"
  await $ELECTION 'another coordinator after the kill' coordinator_is_not "$victim"
  show "$NEW coordinates, $(secs "$TOOK") s after $victim was killed"

  say "  ringagent agent --data-dir $RING/$victim"
  start_agent "$victim"
  await $MEMBER "$victim a full member again by itself" full_member "$victim" "$boot" "$witness"
  show "$victim is a full member again by itself, $(secs "$TOOK") s after it was started"

  await "$(left $SECOND)" 'at least 2 promotions within 4 minutes' promoted 2 "$witness"
  await "$(left $SECOND)" 'a promotion after the kill, within 4 minutes' promoted $((before + 1)) "$witness"
  show "$(promotions "$witness") promotions after $(secs $(($(now) - STARTED))) s, $(($(promotions "$witness") - before)) of them after the kill"

  await 30000 "the champion's bytes on all five nodes" champion_everywhere "$witness"
  show "version $VERSION, ${CHAMPION:0:12}: the same bytes on all five nodes"

  holds "events verify --all-nodes: $(cat "$WORK/verify.txt" 2>/dev/null)" verified "$witness"
  show "events verify --all-nodes: all replicas agree"

  say "  where the daemons run now:"
  singletons "$witness" | awk '{ printf "             %-22s %s\n", $1, $2 }'

  began=$(now)
  holds 'the ring stops and leaves no process behind' ring_stop
  show "everything stopped in $(secs $(($(now) - began))) s, no process is left"

  echo
  echo "Done in $(secs $(($(now) - BEGAN))) s:"
  printf '  * %s\n' "${shown[@]}"
  exit 0
}

main
fail 'the demo broke off in the middle: see above'
