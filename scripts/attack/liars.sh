#!/usr/bin/env bash
# Workloads that lie, hang, multiply and shout: each ends in the right state with a reason, leaves no process and frees its
# slots. A job outlives an agent that is killed with -9, and runs once.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build_probe
# One script plays every part; which, is read from a file beside it, so that the same stage can lie and then behave.
cat >"$scratch/part.sh" <<'S'
out=$1; part=$(cat "$2/part"); echo run >>"$2/runs.$part"
case $part in
nothing) exit 0 ;;
zero) exec "$2/probe" emptydb "$out/games.db" ;;
cut) printf 'PK\003\004cut off' >"$out/dataset.npz" ;;
empty) : >"$out/games.db" ;;
text) echo 'games=1000000'; echo not a database >"$out/games.db" ;;
hang) echo games=1; sleep 600 ;;
forks) trap '' TERM INT HUP; (trap '' TERM HUP; setsid sh -c 'trap "" TERM HUP; exec sleep 601' & ) ; (sh -c 'trap "" TERM; sleep 602' &) ; while :; do sleep 1; done ;;
leaves) (setsid sleep 603 >/dev/null 2>&1 &) ; (sleep 604 &) ; exit 1 ;;
loud) head -c 1073741824 /dev/zero; exit 0 ;;
fails) echo 'it went wrong: exit 7' >&2; exit 7 ;;
killed) kill -9 $$ ;;
link) ln -s /etc/passwd "$out/games.db" ;;
long) for i in $(seq 30); do echo games=$i; sleep 2; done; exec "$3" workload connect4 selfplay --games 2 --simulations 0 --seed $$ --out "$out/games.db" ;;
good) exec "$3" workload connect4 selfplay --games 2 --simulations 0 --seed $$ --out "$out/games.db" ;;
esac
S
cat >"$scratch/liar.yaml" <<Y
version: 1
name: liar
configs: [connect4_2p]
stages:
  selfplay:
    argv: [sh, "$scratch/part.sh", "{out}", "$scratch", "{self}"]
    needs: {cpu: 1}
    timeout: 100s
    no_progress: 8s
    grace: 2s
    progress: 'games=(?P<games>\d+)'
    outputs:
      - {path: games.db, kind: games, min: {games: 1}}
  export:
    argv: [sh, "$scratch/part.sh", "{out}", "$scratch", "{self}"]
    needs: {cpu: 1}
    timeout: 100s
    outputs:
      - {path: dataset.npz, kind: dataset, min: {samples: 1}}
Y
LIMIT=10 expect 0 workload "$RINGAGENT" validate "$scratch/liar.yaml"
# QUEUE_POPULATOR must not play in between.
cat >"$scratch/ring.yaml" <<'Y'
timing: dev
voters: 1
workload: liar.yaml
daemons: {QUEUE_POPULATOR: {enabled: false}, AUTO_EXPORT: {enabled: false}, DATA_PIPELINE: {enabled: false}}
Y
cat >"$scratch/node.yaml" <<'Y'
slots: {cpu: 1, ram_mib: 1024, disk_mib: 1024}
Y
PORT=$((PORT + 1))
"$RINGAGENT" init --data-dir "$scratch/c1" --config "$scratch/node.yaml" --ring-config "$scratch/ring.yaml" --node-name c1 --listen 127.0.0.1:$PORT || { bad init; verdict; }
start c1; until_true 60 coordinated c1 || { bad "c1 coordinates"; verdict; }
state() { ra c1 work show "$1" --json | field state; }
in_state() { case " $2 " in *" $(state "$1") "*) true ;; *) false ;; esac; }
attempted() { [ "$(ra c1 work show "$1" --json | field attempts)" -ge 1 ] && in_state "$1" "pending failed dead done"; }
good() { # slots are free again: a job that keeps its word ends well
  local id
  echo good >"$scratch/part"
  id=$(ra c1 work add selfplay --config connect4_2p --json | field id)
  check "$1: a good job runs after it" until_true 40 in_state "$id" done || ra c1 work show "$id" --json
}
play() { # play PART PATTERN [SECONDS [STAGE]]: one attempt, its reason, then cancelled, then a good one
  local part=$1 stage=${4:-selfplay} pattern=$2 limit=${3:-45} id
  echo "$part" >"$scratch/part"
  id=$(ra c1 work add "$stage" --config connect4_2p --json | field id) || { bad "$part: not added"; return; }
  if ! until_true "$limit" attempted "$id"; then bad "$part: $(ra c1 work show "$id" --json | tr -d '\n ')"; else
    why=$(ra c1 work show "$id" --json | field error)
    if echo "$why" | grep -Eqi -- "$pattern"; then ok "$part: $(state "$id"), \"$why\""; else bad "$part: $(state "$id"), reason \"$why\" is not like /$pattern/"; fi
  fi
  check "$part: one attempt was counted, and it waits for the next" [ "$(state "$id") $(ra c1 work show "$id" --json | field attempts)" = "pending 1" ]
  echo idle >"$scratch/part"
  ra c1 work cancel "$id" >/dev/null 2>&1
  until_true 20 in_state "$id" "cancelled failed dead" || bad "$part: not cancelled but $(state "$id")"
  no_process() { ! pgrep -f 'sleep 60[0-9]' >/dev/null && [ -z "$(job_pids "$scratch/part.sh")" ]; }
  check "$part: no process is left" until_true 15 no_process || ps -eo pid,ppid,sid,args | grep -a "sleep 60\|$scratch/part.sh"
  good "$part"
}
play nothing 'games.db'
play empty 'games'
play text 'games.db|sqlite|database'
play link 'link|regular'
play zero 'games'
play cut 'dataset.npz|zip|npz' 45 export
play fails 'exit 7|exit code 7|status 7|7'
play killed 'signal|killed'
play leaves '1'
play hang 'progress' 60
play forks 'progress' 60
play loud 'games.db|progress' 120
# One that never keeps its word uses its attempts up.
echo fails >"$scratch/part"; fails_before=$(wc -l <"$scratch/runs.fails")
id=$(ra c1 work add selfplay --config connect4_2p --json | field id)
check "fails, again and again: dead in the end" until_true 180 in_state "$id" dead || ra c1 work show "$id" --json
ra c1 work show "$id" --json >"$scratch/dead"
check "all three attempts were used" [ "$(field attempts <"$scratch/dead") $(wc -l <"$scratch/runs.fails")" = "3 $((fails_before + 3))" ]
check "it says why" grep -q 'exit' "$scratch/dead"
good dead
logs=$(du -sm "$scratch/c1/jobs" | cut -f1)
check "1 GiB of output left ${logs} MiB of logs" [ "$logs" -lt 32 ]
rss=$(awk '/VmHWM/{print int($2/1024)}' /proc/$pid_c1/status)
check "the agent's peak memory is ${rss} MiB" [ "$rss" -lt 250 ]
expect 0 done ra c1 work list --all
# A job that outlives its agent.
echo long >"$scratch/part"
id=$(ra c1 work add selfplay --config connect4_2p --json | field id)
check "the long job runs" until_true 40 in_state "$id" running
sleep 5; kill -9 "$pid_c1"; wait "$pid_c1" 2>/dev/null; began=$(date +%s)
check "the job lives on without its agent" [ -n "$(job_pids "$scratch/part.sh")" ]
sleep 3; start c1
check "the agent is back" until_true 40 coordinated c1
check "the job ends well" until_true 110 in_state "$id" done || ra c1 work show "$id"
check "it ran once" [ "$(wc -l <"$scratch/runs.long") $(ra c1 work show "$id" --json | field attempts)" = "1 1" ]
good long
verdict
