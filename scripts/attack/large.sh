#!/usr/bin/env bash
# Large entries, whose data voters keep in files beside raft.db: publishers state events of 16 KiB, forty at a time, while the
# coordinator is killed twice, then all voters at once. Each accepted event is in the log once. A byte of such a file is
# flipped and the file taken away behind a voter's back: it begins anew, and votes again.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build_probe; quiet_ring
make_ring large "$scratch/ring.yaml" c1 c2 c3 || verdict

filling=$(head -c 16000 /dev/zero | tr '\0' x)
export RINGAGENT scratch filling
publish() { # publish FIRST LAST NODE: states events in forty processes at a time; accepted has the numbers of those that stand
  seq "$1" "$2" | xargs -P 40 -I{} sh -c '
    "$RINGAGENT" --data-dir "$scratch/$1" events publish OPERATOR_NOTE --payload "{\"text\":\"n$0-$filling\"}" --key "k$0" --wait --timeout 60s >/dev/null 2>&1 &&
      echo "$0" >>"$scratch/accepted"' {} "$3"
}
outside() { [ -n "$(find "$scratch/$1/raft/journal" -size +1500k 2>/dev/null)" ]; } # a voter has data beside raft.db
whole() { ra "$1" events verify --all-nodes; }
votes() { [ "$(ra "$1" leader --json | "$probe" count voters)" = 3 ]; }
gone() { local n p; for n in "$@"; do p=pid_$n; kill -9 "${!p}" 2>/dev/null; wait "${!p}" 2>/dev/null; done; }
leader() { ra "$1" leader --json 2>/dev/null | field coordinator; }
led() { [[ "$(leader "$1")" == c? ]]; }
stated() { ra "$1" events tail --type OPERATOR_NOTE --json | grep -o '"text":"n[0-9]*-' | tr -dc '0-9\n' | sort -n; }
all_there() { # all_there NODE: every accepted event is there once, and none twice
  stated "$1" >"$scratch/stated"
  [ -z "$(uniq -d "$scratch/stated")" ] && [ -z "$(sort -n "$scratch/accepted" | comm -13 <(sort "$scratch/stated") <(sort "$scratch/accepted"))" ]
}

publish 1 80 c2
check "80 events are accepted" [ "$(wc -l <"$scratch/accepted")" = 80 ]
for n in c1 c2 c3; do check "$n has data beside raft.db" outside $n; done

for round in 1 2; do
  publish $((round * 200)) $((round * 200 + 119)) c2 &
  publishing=$!
  until_true 20 sh -c "[ \$(wc -l <'$scratch/accepted') -gt $((round * 90)) ]"
  victim=$(leader c2)
  [ "$victim" = c2 ] && { ra c2 leader transfer c1 >/dev/null 2>&1; victim=c1; }
  gone "$victim"
  check "another coordinator than $victim" until_true 20 led c2
  start "$victim"
  wait $publishing
  check "round $round: what was stated meanwhile is accepted" [ "$(wc -l <"$scratch/accepted")" = $((80 + round * 120)) ]
  check "every accepted event is there once" until_true 20 all_there c2
done

gone c1 c2 c3
for n in c1 c2 c3; do start $n; done
check "the ring comes back" until_true 40 led c1
for n in c1 c2 c3; do check "$n has every accepted event once" until_true 30 all_there $n; done
check "all copies agree" until_true 30 whole c1

# harm HOW: to the files of c3 while it is off. Data behind the last snapshot is still needed.
harm() {
  local f hit=0
  for f in "$scratch"/c3/raft/journal/*; do
    case $1 in
      flipped) # also where nobody looks any more; somewhere it hits what is needed
        for ((at = 9000; at < $(stat -c %s "$f"); at += 20000)); do printf Y | dd of="$f" bs=1 seek=$at conv=notrunc status=none && hit=1; done ;;
      removed) rm "$f" && hit=1 ;;
    esac
  done
  [ $hit = 1 ]
}
again=$(leader c1)
[ "$again" = c3 ] && { ra c1 leader transfer c1 >/dev/null 2>&1; until_true 20 sh -c "[ \$('$RINGAGENT' --data-dir '$scratch/c1' leader --json | '$probe' field coordinator) = c1 ]"; }
for how in flipped removed; do
  kill "$pid_c3"; wait "$pid_c3" 2>/dev/null
  : >"$scratch/c3.log"
  check "data of c3 is $how" harm $how
  start c3
  check "c3 begins anew" until_true 60 grep -q 'the raft files were wiped' "$scratch/c3.log"
  check "three voters again" until_true 90 votes c1
  check "c3 has every accepted event once" until_true 60 all_there c3
  check "all copies agree" until_true 60 whole c3
  publish $((${#how} * 1000)) $((${#how} * 1000 + 40)) c3
done
check "no voter complains" sh -c "! grep -q 'panic' $scratch/c?.log"
verdict
