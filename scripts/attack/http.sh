#!/usr/bin/env bash
# The port as browsers, scanners and slow clients use it: the agent refuses what it must, stays up, and its memory is bounded.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build_probe; quiet_ring
make_ring port "$scratch/ring.yaml" c1 c2 c3 || verdict
B=http://127.0.0.1:$port_c1
S=https://127.0.0.1:$port_c1
A="Authorization: Bearer $(cat "$scratch/c1/api.token")"
http() { # http STATUS PATTERN WHAT ARGS…
  local want=$1 pattern=$2 what=$3 got; shift 3
  timeout 40 "$probe" http "$@" >"$log" 2>&1; got=$(head -1 "$log")
  if [ "$got" != "$want" ]; then bad "$what: $(head -c 250 "$log" | tr '\n' ' '), want $want"
  elif [ -n "$pattern" ] && ! grep -Eq -- "$pattern" "$log"; then bad "$what: $got, but nothing like /$pattern/: $(head -c 250 "$log" | tr '\n' ' ')"
  else ok "$what -> $got"; fi
}
N='={"type":"OPERATOR_NOTE","payload":{"text":"x"}}'
# Reading on loopback is free; every route of the contract answers.
for p in members leader status daemons work artifacts models ratings games; do http 200 '' "GET $p" GET $B/api/v1/$p; done
http 200 '' healthz GET $B/healthz
http 200 '' readyz GET $B/readyz
http 200 'go_|process_|ringagent' metrics GET $B/metrics
http 200 'seq' "events" GET "$B/api/v1/events?after=0"
http 200 '' "events, type" GET "$B/api/v1/events?after=0&type=LEADER_*"
http 400 'after' "bad position" GET "$B/api/v1/events?after=-1"
http 400 'after' "absurd position" GET "$B/api/v1/events?after=99999999999999999999"
http 400 'type' "bad glob" GET "$B/api/v1/events?after=0&type=%5B"
http 404 '' "unknown node" GET "$B/api/v1/events?node=nobody"
# Mutations: POST with the token, never by GET, never from a page of another origin.
http 401 'unauthorised' "publish without token" POST $B/api/v1/events "$N"
http 401 '' "publish with a wrong token" POST $B/api/v1/events 'Authorization: Bearer 0000' "$N"
http 401 '' "publish with an empty token" POST $B/api/v1/events 'Authorization: Bearer ' "$N"
http 200 '"id"' "publish with the token" POST $B/api/v1/events "$A" "$N"
http 401 'origin' "publish from another origin" POST $B/api/v1/events "$A" 'Origin: http://evil.example' "$N"
http 401 '' "tokens are not free to read" GET $B/api/v1/tokens
http 200 '' "tokens with the token" GET $B/api/v1/tokens "$A"
for m in leave force-leave join leader/transfer work/x/cancel dlq/x/drop daemons/AUTO_SYNC/stop tokens/x/revoke; do http 405 '' "GET $m changes nothing" GET $B/api/v1/$m "$A"; done
http 405 '' "DELETE" DELETE $B/api/v1/work "$A"
http 405 '' "PUT" PUT $B/api/v1/settings "$A" '={}'
# Host and path.
for h in evil.example 169.254.169.254 'localhost.evil.example' '127.0.0.1.nip.io' '127.0.0.1:80@evil'; do http 401 'host|' "Host $h" GET $B/api/v1/status "Host: $h"; done
http 200 '' "Host localhost" GET $B/api/v1/status "Host: localhost:$port_c1"
http 404 '' "dots" GET "$B/api/v1/..%2f..%2fetc%2fpasswd"
http 404 '' "dots in a blob's name" GET "$B/api/v1/blobs/..%2f..%2fnode.json"
http 404 '' "a NUL in a path" GET "$B/api/v1/blobs/%00"
http 404 '' "tls folder" GET "$B/tls/ca.key"
http 404 '' "debug pages" GET "$B/debug/pprof/"
http 404 '' "an empty prefix means nothing" GET "$B/api/v1/blobs/%20"
# Bodies.
http 413 'too_large|bytes' "a body of 2 MiB" POST $B/api/v1/events "$A" @2097152
http 413 '' "a body of 100 MiB" POST $B/api/v1/events "$A" @104857600
http 400 '' "no JSON" POST $B/api/v1/events "$A" '=<xml/>'
http 400 '' "two documents" POST $B/api/v1/events "$A" "$N{}"
http 400 'unknown' "unknown field" POST $B/api/v1/events "$A" '={"type":"OPERATOR_NOTE","payload":{"text":"x"},"frob":1}'
deep=$(head -c 20000 /dev/zero | tr '\0' '[')
http 400 '' "nested 20 000 deep" POST $B/api/v1/events "$A" "=$deep"
http 400 '' "a payload over 64 KiB" POST $B/api/v1/events "$A" "={\"type\":\"OPERATOR_NOTE\",\"payload\":{\"text\":\"$(head -c 70000 /dev/zero | tr '\0' x)\"}}"
# TLS: the same API, with the token for everything but liveness.
http 200 '' "TLS healthz" GET $S/healthz
http 401 '' "TLS status without token" GET $S/api/v1/status
http 200 'quorum_ok' "TLS status with token" GET $S/api/v1/status "$A"
http 401 '' "TLS tail without token" GET "$S/api/v1/events?after=0"
http 401 '' "TLS publish without token" POST $S/api/v1/events "$N"
http 200 '' "TLS publish with token" POST $S/api/v1/events "$A" "$N"
# Floods.
rss() { awk '/VmRSS/{print int($2/1024)}' /proc/$pid_c1/status; }
before=$(rss); term=$(ra c2 leader --json | field term)
for k in zeros ff headers line smuggle h2 tlsjunk slow silent; do check "raw $k" "$probe" raw 127.0.0.1:$port_c1 100 $k; done
check "slow body without token" "$probe" raw 127.0.0.1:$port_c1 50 slowbody 60s
check "half TLS" "$probe" halftls 127.0.0.1:$port_c1 200
"$probe" idle "$B/api/v1/events?follow=1" 1000 25 >"$scratch/idle" & i=$!
sleep 4
http 200 '' "healthz beside 1 000 idle tails" GET $B/healthz
http 200 '' "status beside 1 000 idle tails" GET $B/api/v1/status
LIMIT=10 expect 0 '' ra c1 events publish OPERATOR_NOTE --payload '{"text":"beside"}' --wait
LIMIT=10 expect 0 '' ra c1 events tail --limit 1
during=$(rss); wait $i; cat "$scratch/idle"
check "some tails were served, the rest refused at once" grep -Eq 'taken [1-9][0-9]*, refused [1-9]' "$scratch/idle"
echo "      memory before $before MiB, beside the tails $during MiB, after $(rss) MiB"
check "memory is bounded" [ "$during" -lt $((before + 120)) ]
free() { [ "$("$probe" http GET $B/healthz | head -1)" = 200 ]; }
check "the port is free again" until_true 10 free
http 200 'seq' "a tail after the flood" GET "$B/api/v1/events?after=0"
check "the agent is the same process" kill -0 "$pid_c1"
check "no election because of it" [ "$(ra c2 leader --json | field term)" = "$term" ]
# loopback_open: false closes the free reading.
kill "$pid_c1"; wait "$pid_c1"; printf 'api:\n  loopback_open: false\n' >"$scratch/add"
grep -v '^api' "$scratch/c1/config.yaml" >"$scratch/conf"; cat "$scratch/conf" "$scratch/add" >"$scratch/c1/config.yaml"
start c1; check "back" until_true 40 coordinated c1
http 401 '' "loopback_open: false" GET $B/api/v1/status
http 401 '' "and tails" GET "$B/api/v1/events?after=0"
http 401 '' "and metrics" GET $B/metrics
http 200 '' "with the token" GET $B/api/v1/status "$A"
http 200 '' "liveness stays open" GET $B/healthz
expect 0 '' ra c1 status
verdict
