#!/usr/bin/env bash
# Machines that vanish without a word: no reset, no error, packets just end, as when a rented machine is taken away or a router
# dies. Five agents in network namespaces of their own behind a switch, whose ports are cut and joined again. It needs root
# and iproute2, and says so with exit 77 where they are missing.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[ "$(id -u)" = 0 ] && command -v ip >/dev/null && command -v tc >/dev/null && ip netns add "ra$$-hub" 2>/dev/null || { echo "needs root and network namespaces"; exit 77; }
spaces=("ra$$-hub")
remove_spaces() { local s; for s in "${spaces[@]}"; do ip netns del "$s" 2>/dev/null; done; }
trap 'finish; remove_spaces' EXIT
build_probe; quiet_ring

NODES='c1 c2 c3 e1 e2'
hub="ra$$-hub"
ip -n "$hub" link add sw type bridge && ip -n "$hub" link set sw up || { echo "no bridge here"; exit 77; }

address() { case $1 in c*) echo "10.213.7.1${1#c}" ;; e*) echo "10.213.7.2${1#e}" ;; esac; }
mac() { local a; a=$(address "$1"); printf '02:00:0a:d5:07:%02d' "${a##*.}"; }
plug() { # plug NODE: a namespace with one cable to the switch; everybody knows everybody's hardware address, so that nothing but silence tells of a cut
  local s="ra$$-$1" m
  ip netns add "$s" && spaces+=("$s") || return 1
  ip -n "$s" link set lo up
  ip -n "$s" link add eth0 address "$(mac "$1")" type veth peer name "p-$1" netns "$hub"
  ip -n "$s" addr add "$(address "$1")/24" dev eth0
  ip -n "$s" link set eth0 up
  ip -n "$hub" link set "p-$1" master sw up
  for m in $NODES; do hears "$m" "$1"; done
}
hears() { [ "$1" = "$2" ] || ip -n "ra$$-$2" neigh replace "$(address "$1")" lladdr "$(mac "$1")" dev eth0 nud permanent; } # hears WHO FROM: packets from FROM arrive at WHO
deaf() { ip -n "ra$$-$2" neigh replace "$(address "$1")" lladdr 02:00:00:00:00:01 dev eth0 nud permanent; }               # deaf WHO FROM: they do not
cut_off() { ip -n "$hub" link set "p-$1" nomaster; }
joined() { ip -n "$hub" link set "p-$1" master sw; }

start() { # as in lib.sh, inside the node's namespace
  local n=$1
  ip netns exec "ra$$-$n" "$RINGAGENT" agent --data-dir "$scratch/$n" >>"$scratch/$n.log" 2>&1 </dev/null &
  eval "pid_$n=$!"
  pids+=($!)
}
inside() { local n=$1; shift; ip netns exec "ra$$-$n" "$@"; }

for n in $NODES; do plug "$n" || { bad "no namespace for $n"; verdict; }; done
inside c1 "$RINGAGENT" init --data-dir "$scratch/c1" --ring vanish --ring-config "$scratch/ring.yaml" --node-name c1 --listen "$(address c1):8770" >"$log" || { bad "init: $(cat "$log")"; verdict; }
start c1
until_true 60 coordinated c1 || { bad "c1 does not coordinate"; verdict; }
for n in c2 c3 e1 e2; do
  case $n in c*) class=core ;; *) class=edge ;; esac
  ra c1 token create --class $class | inside $n "$RINGAGENT" join "$(address c1):8770" --data-dir "$scratch/$n" --node-name $n --listen "$(address $n):8770" --token-file - --enrol-only >"$log" 2>&1 || { bad "join $n: $(cat "$log")"; verdict; }
  start $n
done
check "a ring of five in namespaces of their own" until_true 90 voters c1 3
check "all alive" until_true 60 all_alive c1 5

# What an operator would ask. All questions go through the agents' sockets, which no cable carries.
coordinator() { ra "$1" leader --json 2>/dev/null | field coordinator; }
nobody() { [ "$(coordinator "$1")" = null ]; }
another() { local c; c=$(coordinator "$1") && [ -n "$c" ] && [ "$c" != null ] && [ "$c" != "$2" ] && new=$c; } # another VIA GONE
singletons_run() { # singletons_run VIA [GONE]: all of them, and none on GONE
  ra "$1" status --json 2>/dev/null | awk -v gone="\"$2\"," '
    /"singletons"/ { s = 1 }
    s && $1 == "\"state\":" { all++; bad += $2 != "\"RUNNING\"," }
    s && $1 == "\"node\":" { bad += $2 == gone }
    END { exit bad || all < 9 }'
}
whole() { [ "$(ra "$1" status --json | field quorum_ok)" = true ] && [ "$(ra "$1" status --json | field events.lag)" -lt 50 ] && all_alive "$1" 5 && all_alive "$2" 5; } # whole NODE VIA: it sees all and is seen
now() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }
within() { # within SECONDS WHAT COMMAND…: a check that says how long it took
  local limit=$1 what=$2 begun; shift 2
  begun=$(now)
  if until_true "$limit" "$@"; then ok "$what after $(($(now) - begun)) ms"; else bad "$what: not within $limit s"; fi
}
seq_of() { ra "$1" events tail --from-start --json 2>/dev/null | grep -F "\"$2\"" | sed 's/.*"seq":\([0-9]*\).*/\1/'; } # seq_of NODE TEXT
note() { expect 0 '' ra "$1" events publish OPERATOR_NOTE --payload "{\"text\":\"$2\"}" "${@:3}"; } # note NODE TEXT FLAGS…
once() { [ "$(seq_of "$1" "$2" | wc -l)" -eq 1 ]; }
verified() { ra "$1" events verify --all-nodes; }
others() { local n; for n in c1 c2 c3; do [ "$n" = "$1" ] || echo "$n"; done; }
within 60 "every singleton runs" singletons_run c1 ''

echo "--- the coordinator's machine vanishes for 40 s"
gone=$(coordinator c1); via=$(others "$gone" | head -1)
cut_off "$gone"
within 4 "another coordinator" another "$via" "$gone"
within 10 "every singleton runs elsewhere" singletons_run "$via" "$gone"
within 10 "$gone says that nobody coordinates" nobody "$gone"
note "$via" "said by the majority" --wait
note "$gone" "said in the dark"
sleep 25
check "the majority has not got what was said in the dark" test -z "$(seq_of "$via" 'said in the dark')"
joined "$gone"
within 30 "$gone is a full member again" whole "$gone" "$via"
within 10 "what was said in the dark is in the log" once "$via" 'said in the dark'
within 10 "and on $gone, once" once "$gone" 'said in the dark'
check "the log is whole everywhere" until_true 20 verified "$via"

echo "--- an edge machine vanishes for 30 s under a tail"
ra e1 events tail -f --from-start --json >"$scratch/tail" 2>"$scratch/tail.err" &
tail=$!; pids+=($tail)
note c1 "before the gap" --wait
within 10 "the tail on e1 shows it" grep -q 'before the gap' "$scratch/tail"
cut_off e1
for i in 1 2 3 4 5; do note c2 "in the gap $i" --wait; done
sleep 28
note e1 "said on the far side"
joined e1
within 30 "e1 is a full member again" whole e1 c1
note c3 "after the gap" --wait
within 10 "the tail on e1 shows what came after" grep -q 'after the gap' "$scratch/tail"
check "and all that came meanwhile" test "$(grep -c 'in the gap' "$scratch/tail")" -eq 5
check "without a gap in its seqs" awk '{ match($0, /"seq":[0-9]+/); n = substr($0, RSTART + 6, RLENGTH - 6) + 0; if (last && n != last + 1) exit 1; last = n }' "$scratch/tail"
within 10 "what e1 said is in the log, once" once c1 'said on the far side'
kill $tail

echo "--- the coordinator hears all and is heard by nobody"
gone=$(coordinator c1); via=$(others "$gone" | head -1)
for n in $NODES; do deaf "$n" "$gone"; done
within 4 "another coordinator" another "$via" "$gone"
within 10 "every singleton runs elsewhere" singletons_run "$via" "$gone"
note "$via" "behind its back" --wait
sleep 10
for n in $NODES; do hears "$n" "$gone"; done
within 30 "$gone is a full member again" whole "$gone" "$via"

echo "--- two voters cannot hear one another, everybody else hears all"
gone=$(coordinator c1)
set -- $(others "$gone")
deaf "$1" "$2"; deaf "$2" "$1"
sleep 10
check "$gone still coordinates" test "$(coordinator "$gone")" = "$gone"
check "all are alive, as others see it" all_alive "$gone" 5
check "all are alive, as $1 sees it" all_alive "$1" 5
note "$1" "past one another" --wait
hears "$1" "$2"; hears "$2" "$1"
within 30 "all is as it was" whole "$1" "$2"

echo "--- 32 MiB on their way to e2 over 20 Mbit/s, whose cable is cut for 15 s in the middle"
head -c $((32 << 20)) /dev/urandom >"$scratch/bytes"
sha=$(sha256sum <"$scratch/bytes" | cut -d' ' -f1)
expect 0 "" ra c1 data put "$scratch/bytes" --kind file
tc -n "$hub" qdisc add dev p-e2 root tbf rate 20mbit burst 64kb latency 50ms
sent() { ip -n "$hub" -s link show p-e2 | awk '/TX:/ { getline; print $1 }'; } # bytes that have left the switch for e2
began=$(sent)
timeout 180 "$RINGAGENT" --data-dir "$scratch/e2" --timeout 170s data get "$sha" --out "$scratch/got" >"$log" 2>"$log.err" &
get=$!; pids+=($get)
past() { [ $(($(sent) - began)) -gt $((20 << 20)) ]; }
within 60 "20 MiB have gone" past
cut_off e2; sleep 15; joined e2
wait $get; code=$?
check "data get ends with 0: $code $(head -c 200 "$log.err")" test $code -eq 0
check "the bytes are right" cmp -s "$scratch/bytes" "$scratch/got"
echo "      $((($(sent) - began) >> 10)) KiB went for $((32 << 10))"
check "at most a chunk and its overhead was sent twice" test $(($(sent) - began)) -lt $((39 << 20))
tc -n "$hub" qdisc del dev p-e2 root
within 30 "e2 is a full member" whole e2 c1

echo "--- four machines behind cables of 4 Mbit/s, 8 MB of events and a file of 8 MiB at once"
for n in c1 c2 c3 e1; do tc -n "$hub" qdisc add dev "p-$n" root tbf rate 4mbit burst 32kb latency 300ms; done
reign() { ra c1 leader --json | "$probe" field coordinator; ra c1 leader --json | "$probe" field term; }
before=$(reign)
printf '{"text":"%s"}' "$(head -c 37500 /dev/urandom | base64 -w0)" >"$scratch/payload"
flood=()
for n in c1 c2 c3 e1; do
  (for i in $(seq 40); do ra $n events publish OPERATOR_NOTE --payload @"$scratch/payload" || exit 1; done >/dev/null 2>"$scratch/flood-$n") &
  flood+=($!)
done
head -c $((8 << 20)) /dev/urandom >"$scratch/more"
expect 0 "" ra c1 data put "$scratch/more" --kind file
LIMIT=120 expect 0 "" ra e1 --timeout 110s data get "$(sha256sum <"$scratch/more" | cut -d' ' -f1)" --out "$scratch/got"
check "the bytes are right" cmp -s "$scratch/more" "$scratch/got"
for n in c1 c2 c3 e1; do check "all events of a publisher are accepted" wait "${flood[0]}"; flood=("${flood[@]:1}"); done
LIMIT=120 note c1 "after the flood" --wait --timeout 110s
within 60 "it is on e1" once e1 'after the flood'
check "nobody took the coordinator's office: $(echo $before)" test "$(reign)" = "$before"
for n in c1 c2 c3 e1; do tc -n "$hub" qdisc del dev "p-$n" root; done
check "the log is whole everywhere" until_true 30 verified c1

echo "--- every machine in turn is gone for 3 s and back for 2 s, twice"
for i in 1 2; do
  for n in $NODES; do
    cut_off $n; note $n "flap $i $n"; sleep 3; joined $n; sleep 2
  done
done
for n in $NODES; do within 30 "$n is a full member" whole $n c1; done
for i in 1 2; do for n in $NODES; do within 10 "flap $i $n is in the log, once" once e2 "flap $i $n"; done; done
within 30 "every singleton runs" singletons_run c1 ''
check "the log is whole everywhere" until_true 20 verified c1
expect 0 '' ra c1 status
cat "$log"
verdict
