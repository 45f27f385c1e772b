#!/usr/bin/env bash
# Tokens that must not open, a node that must be shut out, and secrets that must not lie about.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build_probe
cat >"$scratch/w.yaml" <<'Y'
version: 1
name: sleeper
configs: [a_2p]
stages:
  selfplay: {argv: [sh, -c, 'sleep 300'], needs: {cpu: 1}, timeout: 10m, outputs: [{path: x, kind: games}]}
Y
printf 'timing: dev\nvoters: 3\nworkload: w.yaml\n' >"$scratch/ring.yaml"
make_ring one "$scratch/ring.yaml" c1 c2 c3 e1 || verdict
printf 'timing: dev\nvoters: 1\n' >"$scratch/other.yaml"
make_ring two "$scratch/other.yaml" c9 || verdict
P=$((PORT + 1)); n=0
try() { # try CODE PATTERN TOKENFILE WHAT [FLAGS…]
  local code=$1 pattern=$2 file=$3 what=$4; shift 4; n=$((n + 1))
  expect "$code" "$pattern" "$RINGAGENT" join 127.0.0.1:$port_c1 --data-dir "$scratch/new$n" --node-name new$n --listen 127.0.0.1:$P --token-file "$file" --enrol-only "$@"
  check "$what: nothing is left behind" [ ! -e "$scratch/new$n" ]
  mkdir -p "$scratch/dir$n"; printf 'listen: 127.0.0.1:%s\n' $P >"$scratch/dir$n/config.yaml"
  expect "$code" "$pattern" "$RINGAGENT" join 127.0.0.1:$port_c1 --data-dir "$scratch/dir$n" --node-name dir$n --token-file "$file" --enrol-only "$@"
  check "$what: a folder that was there is as before" [ "$(ls -A "$scratch/dir$n")" = config.yaml ]
}
T=$scratch/tok
ra c1 token create >"$T.used"
expect 0 enrolled "$RINGAGENT" join 127.0.0.1:$port_c1 --data-dir "$scratch/u1" --node-name u1 --listen 127.0.0.1:$P --token-file "$T.used" --enrol-only
try 9 'used' "$T.used" "used token"
ra c1 token create >"$T.fresh"; sed 's/.$/0/; s/^\(.*\)...$/\1zzz/' "$T.fresh" >"$T.wrong"; head -c -10 "$T.fresh" >"$T.cut"
sed -E 's/^(ra1\.[^.]*\.[^.]*\.).*/\1AAAAAAAAAAAAAAAAAAAAAAAAAA/' "$T.fresh" >"$T.secret"
try 9 '' "$T.wrong" "altered token"
echo "$(cut -d. -f1-3 "$T.fresh").$(cut -d. -f4 "$T.used")" >"$T.mixed"; try 9 '' "$T.mixed" "wrong token"
try 9 '' "$T.cut" "cut token"
try 9 '' "$T.secret" "wrong secret"
echo rubbish >"$T.rubbish"; try 9 'ra1' "$T.rubbish" "rubbish"
: >"$T.empty"; try 9 'token create' "$T.empty" "no token"
ra c1 token create --ttl 1s >"$T.expired"; sleep 2; try 9 'expired' "$T.expired" "expired token"
ra c1 token create --json >"$T.json"; field token <"$T.json" >"$T.revoked"
check "token create's JSON" "$probe" keys . token id class expires <"$T.json"
expect 0 '' ra c2 token revoke "$(field id <"$T.json")"
try 9 'revoked' "$T.revoked" "revoked token"
ra c9 token create >"$T.foreign"; try 9 '' "$T.foreign" "token of another ring"
try 8 'class' "$T.fresh" "another class than the token's" --class core
expect 0 '' bash -c "RINGAGENT_TOKEN=\$(cat $T.fresh) '$RINGAGENT' join 127.0.0.1:$port_c1 --data-dir '$scratch/u2' --node-name u2 --listen 127.0.0.1:$P --enrol-only --json"
check "a token in the argument list is no token" bash -c "! '$RINGAGENT' join 127.0.0.1:$port_c1 --token \$(cat $T.fresh) --data-dir '$scratch/u3' 2>/dev/null"
# Many at once with one token: exactly one gets in.
ra c1 token create >"$T.race"
race() { for i in 1 2 3 4 5 6; do "$RINGAGENT" join 127.0.0.1:$port_c1 --data-dir "$scratch/r$i" --node-name r$i --listen 127.0.0.1:$P --token-file "$T.race" --enrol-only >/dev/null 2>&1 & echo $!; done >"$scratch/race"; }
race; for p in $(cat "$scratch/race"); do while kill -0 $p 2>/dev/null; do sleep 0.1; done; done
check "six at once with one token: one gets in" [ "$(ls -d "$scratch"/r[1-6] | wc -l) $(ls "$scratch"/r[1-6]/node.json | wc -l)" = "1 1" ]
# An edge node never votes.
voting() { [ "$(ra c1 leader --json | "$probe" field voters | grep -o '[ce][0-9]' | sort | tr '\n' ' ')" = 'c1 c2 c3 ' ]; }
check "the core nodes vote, and no edge node" until_true 30 voting
expect 8 '' ra c1 leader transfer e1
check "an edge node holds no CA key" bash -c "! grep -rlq 'PRIVATE KEY' '$scratch/e1' --include='ca*'"
# Shut out. Streams between the node and every other one, both ways, must end within 2 s of the moment in which force-leave is
# given, and its next calls must be refused within the same 2 s.
open=()
for c in c1 c2 c3; do
  "$RINGAGENT" --data-dir "$scratch/$c" events tail -f --node e1 >"$scratch/tail.$c" 2>&1 & open+=($!)
  "$RINGAGENT" --data-dir "$scratch/e1" events tail -f --node $c >"$scratch/tail.e1.$c" 2>&1 & open+=($!)
done
pids+=("${open[@]}"); sleep 1
expect 0 '' ra c2 events publish OPERATOR_NOTE --payload '{"text":"still in"}' --wait
for f in c1 c2 c3 e1.c1 e1.c2 e1.c3; do check "the open stream $f works" until_true 10 grep -q 'still in' "$scratch/tail.$f"; done
expect 0 '' ra e1 work list
millis() { echo $(($(date +%s%N) / 1000000)); }
began=$(millis)
"$RINGAGENT" --data-dir "$scratch/c1" force-leave e1 >"$log" 2>&1; code=$?
all_ended() { local p; for p in "${open[@]}"; do ! kill -0 "$p" 2>/dev/null || return 1; done; }
while ! all_ended && [ $(($(millis) - began)) -lt 2000 ]; do sleep 0.02; done
took=$(($(millis) - began))
check "force-leave e1 ends with 0" [ $code -eq 0 ]
check "all six streams have ended $took ms after force-leave was given" all_ended
refused() { # every core node at once, so that three questions take no longer than one
  local c p asked=() bad=0
  for c in c1 c2 c3; do timeout 10 "$RINGAGENT" --data-dir "$scratch/e1" events tail --limit 1 --node $c >/dev/null 2>&1 & asked+=($!); done
  for p in "${asked[@]}"; do wait "$p"; [ $? -eq 9 ] || bad=1; done
  return $bad
}
refused; code=$?; took=$(($(millis) - began))
check "its next call is refused by each of the three, $took ms after force-leave was given" [ $code -eq 0 -a $took -lt 2000 ]
LIMIT=20 expect 9 '' ra e1 work list
LIMIT=20 expect 9 '' ra e1 token create
for c in c1 c2 c3; do expect 0 '"left"|"failed"' ra $c members --json; done
gone() { [ "$(ra "$1" members --status alive --json | "$probe" count members)" = 3 ]; }
for c in c1 c2 c3; do check "$c sees three alive" until_true 20 gone $c; done
kill "$pid_e1"; wait "$pid_e1"; start e1
not_back() { sleep 4; gone c1; }
check "a new start does not bring it back" not_back
# Where it had still heard of it by the ring's state, it does not start at all.
shut() {
  kill -0 "$pid_e1" 2>/dev/null || { wait "$pid_e1"; [ $? -eq 9 ]; return; }
  ra e1 work list >/dev/null 2>&1; [ $? -eq 9 ]
}
check "it is refused after that start, too" until_true 20 shut
expect 0 '' ra c1 force-leave c2
expect 8 'spared' ra c1 force-leave c3
LIMIT=15 expect 0 '' ra c1 events publish OPERATOR_NOTE --payload '{"text":"still deciding"}' --wait
# Secrets.
expect 0 pending ra c1 work add selfplay --config a_2p --json
running() { [ "$(ra c1 work list --state running --json | "$probe" count work)" -ge 1 ]; }
check "a job runs" until_true 30 running
{ cat "$T".fresh "$T".used "$T".revoked "$T".race; for f in "$T".fresh "$T".used "$T".race; do cut -d. -f4 <$f; done
  cat "$scratch"/c?/api.token; find "$scratch"/*/tls -type f | true
  for k in $(grep -rl 'PRIVATE KEY' "$scratch"/*/tls); do sed -n '/PRIVATE KEY/,/END/p' $k | grep -v -e '---'; done; } | sort -u >"$scratch.secrets"
mkdir "$scratch/proc"
for p in $(job_pids "$scratch"); do cat /proc/$p/cmdline >"$scratch/proc/$p.cmdline" 2>/dev/null; done
for p in $(job_pids "$scratch"); do tr '\0' '\n' </proc/$p/cmdline 2>/dev/null | grep -q 'sleep 300\|job-shim' && cat /proc/$p/environ >"$scratch/proc/$p.environ"; done
check "a job's environment is among what is scanned" ls "$scratch"/proc/*.environ
for c in c1 c2 c3; do ra $c events tail --json >"$scratch/proc/$c.events"; ra $c work list --all --json >"$scratch/proc/$c.work"; ra $c config show --scope ring --json >"$scratch/proc/$c.settings"; ra $c status --json >"$scratch/proc/$c.status"; ra $c token list --json >"$scratch/proc/$c.tokens"; done
rm -f "$T".*
grep -c . "$scratch.secrets" >/dev/null
planted() {
  local secret n=0
  while IFS= read -r secret; do
    [ ${#secret} -ge 12 ] || continue
    printf 'x%sx' "$secret" >"$scratch/proc/canary"
    "$probe" scan "$scratch.secrets" "$scratch/proc" >/dev/null 2>&1 && return 1
    n=$((n + 1))
  done <"$scratch.secrets"
  [ $n -ge 10 ]
}
check "the scan finds each secret that is planted" planted
rm "$scratch/proc/canary"
"$probe" scan "$scratch.secrets" "$scratch"; code=$?
check "no secret in files, logs, events, job specs, argv or environment" [ $code -eq 0 ]
rm -f "$scratch.secrets"
verdict
