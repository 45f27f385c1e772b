#!/usr/bin/env bash
# A disk that changes a byte of the log behind an agent's back: `events verify` ends with 1 and names the node and the seq, on
# an edge node and on voters, asked there and asked elsewhere, and the replica is repaired from a peer.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build_probe; quiet_ring
make_ring replica "$scratch/ring.yaml" c1 c2 c3 e1 || verdict

# publish TEXT: an event that is in the log when this returns; prints its seq.
publish() { ra c1 events publish OPERATOR_NOTE --payload "{\"text\":\"$1\"}" --wait --json | field seq; }
# flip FILE TEXT: changes one bit of the text. The file may hold stale pages with copies of it, which nobody reads: there, too.
flip() {
  local at n=0
  for at in $(grep -abo -- "$2" "$1" | cut -d: -f1); do
    printf X | dd of="$1" bs=1 seek="$((at + 3))" conv=notrunc status=none && n=$((n + 1))
  done
  echo "      $n places"
  [ "$n" -gt 0 ]
}
everywhere() { # everywhere SEQ: all four replicas are whole and have it
  ra c1 events verify --all-nodes --json >"$scratch/verify" || return 1
  local i
  for i in 0 1 2 3; do [ "$(field nodes.$i.last_seq <"$scratch/verify")" -ge "$1" ] || return 1; done
}
named() { # named NODE SEQ ASKED ARGS…: verify fails and says who and where
  "$RINGAGENT" --data-dir "$scratch/$3" events verify "${@:4}" >"$log" 2>"$log.err"
  [ $? -eq 1 ] && grep -q "replica of $1 is wrong from seq $2 on" "$log.err"
}

for i in 1 2 3; do publish "ordinary $i" >/dev/null; done

# damaged HOW NODE ASKED ARGS…: a byte of one event is flipped, while NODE's agent is down or under its hands; ASKED is asked
# afterwards. A voter that starts holds some of its records against Raft's and may find the damage before it is asked.
rounds=0
damaged() {
  local how=$1 node=$2 asked=$3 p=pid_$2 text seq last; shift 3
  rounds=$((rounds + 1)); text="the-byte-to-flip-$rounds"
  seq=$(publish "$text"); last=$(publish "after it, $rounds")
  check "four whole replicas" until_true 60 everywhere "$last"
  [ "$how" = down ] && { kill "${!p}"; wait "${!p}"; }
  check "a byte of event $seq flipped in the log of $node, $how" flip "$scratch/$node/events.db" "$text"
  [ "$how" = down ] && start "$node"
  # The node has to be back in gossip before others ask it; until then the rest is whole.
  check "events verify $* at $asked: exit 1, $node, seq $seq" until_true 60 named "$node" "$seq" "$asked" "$@"
  tail -1 "$log.err"
  # What was found is repaired from a peer, without anybody's help.
  check "whole again" until_true 60 everywhere "$last"
}
damaged down e1 c2 --all-nodes
damaged down e1 e1
damaged running c3 c2 --all-nodes
damaged running c3 c3
damaged running c2 c2 --all-nodes --json
check "the JSON says so" [ "$("$probe" field ok <"$log")" = false ]
expect 0 '' ra c1 events verify --all-nodes
verdict
