#!/usr/bin/env bash
# The contract of the command line on a running dev ring: shapes field by field, exit codes, streams; with and without quorum.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build_probe
D=$scratch/dev
"$RINGAGENT" dev --dir "$D" --base-port $PORT --json >"$scratch/dev.out" 2>"$scratch/dev.err" & devpid=$!; pids+=($devpid)
n() { local k=$1; shift; "$RINGAGENT" --data-dir "$D/$k" "$@"; }
ready() { grep -q 'ready:' "$scratch/dev.err"; }
check "dev is ready" until_true 120 ready || { cat "$scratch/dev.err"; verdict; }
promoted() { [ "$(n n1 models --json | "$probe" count models)" -ge 1 ]; }
check "something is promoted" until_true 240 promoted || n n1 work list
for k in 1 2 3 4 5; do pids+=("$(sed -n "${k}p" "$D/nodes.jsonl" | field pid)"); eval "pid_n$k=\${pids[-1]}"; done
check "nodes.jsonl" "$probe" keys . name pid data_dir class address <"$D/nodes.jsonl"
check "D/n2/config.yaml and sockets" [ -f "$D/n2/config.yaml" -a -S "$D/n2/agent.sock" ]
expect 8 'runs|in use' "$RINGAGENT" dev --dir "$D" --base-port $PORT
expect 8 'nodes' "$RINGAGENT" dev --dir "$D" --nodes 3
expect 8 'dev ring|empty' "$RINGAGENT" dev --dir "$here"
shape() { # shape NODE COMMAND PATH FIELDS…: JSON on stdout with these fields, nothing on stderr
  local k=$1 cmd=$2 path=$3 said; shift 3
  if ! n $k $cmd --json >"$log" 2>"$log.err"; then bad "$k $cmd --json: exit $?: $(head -c 200 "$log.err")"; return; fi
  [ -s "$log.err" ] && bad "$k $cmd --json says on stderr: $(head -c 200 "$log.err")"
  if said=$("$probe" keys "$path" "$@" <"$log" 2>&1); then ok "$k $cmd --json has $* $said"; else bad "$k $cmd --json: $said"; fi
  if grep -Eq '"[a-z]+[A-Z]' <(sed -E 's/"(sha256|[^"]*)": *"[^"]*"/\1/g' "$log" | grep -Eo '"[A-Za-z_]+":' ); then bad "$cmd: camelCase field"; fi
}
for k in n2 n5; do # a core and an edge node answer alike
  shape $k members members name id address status class voter coordinator reach version tags gpu daemons unsynced_games last_seen_seconds
  shape $k leader . coordinator term voters nonvoters quorum alive_voters failure_tolerance commit_index
  shape $k status . node ring coordinator quorum_ok members daemons events work alarms
  shape $k status events last_seq lag
  shape $k status members alive failed
  shape $k status daemons running failed
  shape $k status work pending running
  shape $k daemons daemons name category scope state node epoch since restarts depends_on blocked_on last_progress_seconds last_error alias_of
  shape $k "daemons --all" daemons name category scope state node epoch
  shape $k "daemons --node n3" daemons name category scope state node epoch
  shape $k "work list" work id type config state priority attempts claimed_by claim_id epoch created deadline error result
  shape $k "work list --all" work id type config state
  shape $k "data ls" artifacts sha256 kind config bytes created origin holders names
  shape $k "data under-replicated" artifacts sha256
  shape $k games configs config games unsynced packs last_game
  shape $k models models config version sha256 elo games promoted_at parent on_nodes
  shape $k "models --history" models config version sha256 elo promoted_at
  shape $k elo ratings config model elo low high games wins losses draws
  shape $k "dlq list" dead_letters id event_id seq type handler node error attempts first_failed last_failed
  shape $k "events verify --all-nodes" . ok last_seq hash nodes
  shape $k "events types" types type wire_name doc source fields
  shape $k "events types SELFPLAY_COMPLETE" types type wire_name doc source fields
  shape $k "token list" tokens id
  shape $k "config show --effective" . values
  shape $k "config show --scope ring" settings workload configs voters retention daemons
done
shape n1 version . version commit go protocol state_version
for k in n1 n5; do n $k events tail --limit 1 --json >"$log"; check "$k tail's line" "$probe" keys . seq id type node daemon epoch time cause payload <"$log"; done
check "tail without -f begins at the start" [ "$(n n5 events tail --limit 1 --json | field seq)" = 1 ]
check "payload of SELFPLAY_COMPLETE" "$probe" keys payload node_id config_key work_id games model_sha256 seconds < <(n n1 events tail --type SELFPLAY_COMPLETE --limit 1 --json)
check "payload of NEW_GAMES_AVAILABLE" "$probe" keys payload node_id config_key new_games total_games pack_sha256 < <(n n1 events tail --type NEW_GAMES_AVAILABLE --limit 1 --json)
check "payload of DATA_SYNC_COMPLETED" "$probe" keys payload node_id games bytes targets < <(n n1 events tail --type DATA_SYNC_COMPLETED --limit 1 --json)
check "payload of NPZ_EXPORT_COMPLETE" "$probe" keys payload node_id config_key sha256 samples games < <(n n1 events tail --type NPZ_EXPORT_COMPLETE --limit 1 --json)
check "payload of TRAINING_STARTED" "$probe" keys payload node_id config_key work_id dataset_sha256 parent_sha256 < <(n n1 events tail --type TRAINING_STARTED --limit 1 --json)
check "payload of TRAINING_COMPLETED" "$probe" keys payload node_id config_key work_id sha256 samples loss seconds < <(n n1 events tail --type TRAINING_COMPLETED --limit 1 --json)
check "payload of EVALUATION_COMPLETED" "$probe" keys payload node_id config_key sha256 opponents elo games < <(n n1 events tail --type EVALUATION_COMPLETED --limit 1 --json)
check "payload of ELO_UPDATED" "$probe" keys payload node_id config_key sha256 elo games < <(n n1 events tail --type ELO_UPDATED --limit 1 --json)
check "payload of MODEL_PROMOTED" "$probe" keys payload node_id config_key version sha256 previous_sha256 elo elo_delta < <(n n1 events tail --type MODEL_PROMOTED --limit 1 --json)
check "payload of SELFPLAY_ALLOCATION_UPDATED" "$probe" keys payload node_id plan_version allocation total < <(n n1 events tail --type SELFPLAY_ALLOCATION_UPDATED --limit 1 --json)
check "payload of LEADER_ELECTED" "$probe" keys payload node_id term < <(n n1 events tail --type LEADER_ELECTED --limit 1 --json)
check "payload of HOST_ONLINE" "$probe" keys payload node_id boot_id cause < <(n n1 events tail --type HOST_ONLINE --limit 1 --json)
for t in WORK_QUEUED WORK_CLAIMED WORK_STARTED WORK_COMPLETED; do check "payload of $t" "$probe" keys payload node_id work_id work_type attempt < <(n n1 events tail --type $t --limit 1 --json); done
# One row per singleton; node scope has no epoch.
n n2 daemons --all --json >"$log"
check "one row for a singleton" [ "$(grep -c '"name": "AUTO_PROMOTION"' "$log")" = 1 ]
check "five rows for a node-scope daemon" [ "$(grep -c '"name": "EVENT_ROUTER"' "$log")" = 5 ]
check "eighteen daemons" [ "$(grep -o '"name": "[A-Z0-9_]*"' "$log" | sort -u | wc -l)" -ge 18 ]
# Publishing.
a=$(n n5 events publish OPERATOR_NOTE --payload '{"text":"k"}' --key K1 --wait --json); b=$(n n5 events publish OPERATOR_NOTE --payload '{"text":"k"}' --key K1 --wait --json)
check "the same key gives the same id and seq" [ "$a" = "$b" -a -n "$a" ]
expect 0 id "$RINGAGENT" --data-dir "$D/n5" events publish OPERATOR_NOTE --payload '{"text":"k","data":{"a":1},"more":true}' --wait --json
n n5 events publish OPERATOR_NOTE --payload '{"text":"kept","more":true}' --wait --json >"$log"; s=$(field seq <"$log")
check "unknown fields are kept" grep -q '"more":true' <(n n1 events tail --after $((s - 1)) --limit 1 --json)
check "--origin filters" [ -z "$(n n1 events tail --after $((s - 1)) --limit 1 --origin n2 --type OPERATOR_NOTE --json)" ]
check "--node reads another's replica" [ "$(n n1 events tail --after $((s - 1)) --limit 1 --node n4 --json | field seq)" = "$s" ]
expect 2 'text' "$RINGAGENT" --data-dir "$D/n5" events publish OPERATOR_NOTE --payload '{"text":5}'
expect 8 '' "$RINGAGENT" --data-dir "$D/n5" events publish WORK_COMPLETED --payload '{"work_id":"x","work_type":"selfplay","attempt":1}'
expect 8 '' "$RINGAGENT" --data-dir "$D/n1" leader transfer n5
expect 4 '' "$RINGAGENT" --data-dir "$D/n1" leader transfer nobody
expect 4 '' "$RINGAGENT" --data-dir "$D/n1" daemons --node nobody
# Artifacts from a node that has none of its own.
sha=$(n n5 models --json | field models.0.sha256)
shape n5 "data get ${sha:0:10} --out $scratch/m" . sha256 path bytes
check "data get gives the bytes" [ "$(sha256sum <"$scratch/m" | cut -d' ' -f1)" = "$sha" ]
expect 0 '' "$RINGAGENT" --data-dir "$D/n5" data get "$sha" --out "$scratch/m"
expect 2 'folder' "$RINGAGENT" --data-dir "$D/n5" data get "$sha" --out "$scratch"
check "data get --out - gives them, too" [ "$(n n5 data get "$sha" --out - | sha256sum | cut -d' ' -f1)" = "$sha" ]
expect 0 "$sha" "$RINGAGENT" --data-dir "$D/n4" data where "${sha:0:10}" --json
expect 0 '' "$RINGAGENT" --data-dir "$D/n1" data verify "${sha:0:10}"
echo hello >"$scratch/f"; expect 0 "$(sha256sum <"$scratch/f" | cut -d' ' -f1)" "$RINGAGENT" --data-dir "$D/n5" data put "$scratch/f" --kind file --json
expect 2 'no good|dataset|NPZ|npz' "$RINGAGENT" --data-dir "$D/n1" data put "$scratch/f" --kind dataset --config connect4_2p
check "the file is named as its owner knows it" grep -q "$scratch/f is no good dataset" "$log.err"
expect 2 'kind' "$RINGAGENT" --data-dir "$D/n1" data put "$scratch/f" --kind gold
expect 2 '' "$RINGAGENT" --data-dir "$D/n1" data put /nowhere --kind file
# The network's move.
shape n1 "workload connect4 move --model $scratch/m --moves 4453" . column value policy
check "policy has 7 numbers" [ "$("$probe" count policy <"$log")" = 7 ]
expect 0 'column' "$RINGAGENT" workload connect4 move --untrained --moves '' --json --simulations 0
expect 2 '' "$RINGAGENT" workload connect4 move --untrained --moves 4444444
expect 2 '' "$RINGAGENT" workload connect4 move --untrained --moves 41414141
expect 2 '' "$RINGAGENT" workload connect4 move --untrained --moves 9
expect 2 '"code":"usage"' "$RINGAGENT" workload connect4 move --moves 4 --json
check "and no inner word" bash -c "! grep -q 'bad option' '$log.err'"
# A running agent that cannot reach a seed is not taken for none.
LIMIT=30 expect 3 '127.0.0.1:1' "$RINGAGENT" --data-dir "$D/n5" join 127.0.0.1:1
expect 0 '"ratings"' "$RINGAGENT" --data-dir "$D/n5" elo --plot --json
# Steering.
expect 0 '' "$RINGAGENT" --data-dir "$D/n5" daemon explain AUTO_PROMOTION
expect 0 '' "$RINGAGENT" --data-dir "$D/n2" daemon stop AUTO_SYNC
stopped() { n n2 daemons --node n2 --json | tr -d '\n ' | grep -q '"AUTO_SYNC"[^}]*"STOPPED"'; }
check "it is stopped" until_true 15 stopped
expect 0 '' "$RINGAGENT" --data-dir "$D/n2" daemon start AUTO_SYNC
expect 9 'edge' "$RINGAGENT" --data-dir "$D/n5" daemon stop DATA_PIPELINE
expect 0 '' "$RINGAGENT" --data-dir "$D/n3" daemon stop DATA_PIPELINE
off() { n n5 daemons --json | tr -d '\n ' | grep -q '"DATA_PIPELINE"[^}]*"STOPPED"'; }
check "a stopped singleton is stopped in the whole ring" until_true 20 off || n n5 daemons | grep DATA_PIPELINE
expect 0 '' "$RINGAGENT" --data-dir "$D/n1" daemon start DATA_PIPELINE
runs() { n n5 daemons --json | tr -d '\n ' | grep -q '"DATA_PIPELINE"[^}]*"RUNNING"'; }
check "and runs again" until_true 20 runs
# People's tables.
for c in members leader status daemons 'work list' 'data ls' games models elo 'elo --plot' 'dlq list' 'events tail --limit 3' 'token list'; do
  n n5 $c >"$log" 2>"$log.err"; check "$c: a table on stdout without colour, nothing on stderr" bash -c "[ -s '$log' -a ! -s '$log.err' ] && ! grep -q \$'\\033' '$log'"
done
# Without quorum: two of three voters are killed.
k=$(n n5 leader --json | field coordinator); others=(); for v in n1 n2 n3; do [ "${#others[@]}" -lt 2 ] && [ $v != n3 ] && others+=($v); done
last=n3
kill -9 "$pid_n1" "$pid_n2"
lost() { [ "$(n n3 status --json | field quorum_ok)" = false ]; }
check "n3 sees that quorum is lost" until_true 20 lost
for x in n3 n5; do
  refusal=5 why=no_quorum; [ $x = n5 ] && refusal=9 why=unauthorised # an edge node may never do these
  for c in members daemons "events tail --limit 2" "data ls" status "work list" games models; do
    LIMIT=15 expect 0 '' "$RINGAGENT" --data-dir "$D/$x" $c --json
    case $c in events*) ;; *) check "$x $c carries as_of" "$probe" keys . as_of <"$log" ;; esac
  done
  LIMIT=15 expect 0 '"quorum_ok": *false' "$RINGAGENT" --data-dir "$D/$x" status --json
  LIMIT=15 expect 5 '"coordinator": *null' "$RINGAGENT" --data-dir "$D/$x" leader --json
  alone() { n $x leader --json 2>/dev/null | grep -q '"alive_voters": 1'; }
  check "$x counts one voter alive" until_true 40 alone
  LIMIT=15 expect 5 'no_quorum' "$RINGAGENT" --data-dir "$D/$x" leader --json
  check "$x leader's error" grep -q no_quorum "$log.err"
  LIMIT=45 expect 6 '' "$RINGAGENT" --data-dir "$D/$x" events publish OPERATOR_NOTE --payload '{"text":"later"}' --wait --timeout 5s --json
  LIMIT=15 expect 0 '"id"' "$RINGAGENT" --data-dir "$D/$x" events publish OPERATOR_NOTE --payload '{"text":"soon"}' --json
  LIMIT=45 expect $refusal $why "$RINGAGENT" --data-dir "$D/$x" token create --json
  LIMIT=45 expect $refusal $why "$RINGAGENT" --data-dir "$D/$x" work add selfplay --config connect4_2p --json
  LIMIT=45 expect $refusal $why "$RINGAGENT" --data-dir "$D/$x" force-leave n4 --json
done
LIMIT=20 expect 7 'unknown' "$RINGAGENT" --data-dir "$D/n3" daemons --all --json
LIMIT=20 expect 7 'unknown' "$RINGAGENT" --data-dir "$D/n3" daemons --node n1
# Back.
"$RINGAGENT" agent --data-dir "$D/n1" >>"$scratch/n1.log" 2>&1 & pids+=($!); "$RINGAGENT" agent --data-dir "$D/n2" >>"$scratch/n2.log" 2>&1 & pids+=($!)
found() { [ "$(n n3 status --json | field quorum_ok)" = true ]; }
check "quorum is back by itself" until_true 40 found
arrived() { n n1 events tail --type OPERATOR_NOTE --json | grep -q '"later"' && n n1 events tail --type OPERATOR_NOTE --json | grep -q '"soon"'; }
check "what was accepted without quorum has its place now" until_true 30 arrived
later() { [ "$(n n1 events tail --type OPERATOR_NOTE --json | grep -c '"text":"later"')" -ge "$1" ]; }
check "from both nodes" until_true 30 later 2
sleep 2; if later 3; then bad "a publish without quorum came twice"; else ok "and each once"; fi
expect 0 '' "$RINGAGENT" --data-dir "$D/n5" leader
kill -TERM $devpid; s=$(date +%s); wait $devpid; code=$?
check "SIGTERM ends dev within 45 s" [ $(($(date +%s) - s)) -le 45 ]; echo "      exit $code after $(($(date +%s) - s)) s"
check "all agents are gone, also those started by hand" [ -z "$(job_pids "$D/n")" ]
check "the summary" "$probe" keys . seconds games generations promotions promoted ratings < <(tail -1 "$scratch/dev.out")
# What is given up, taken back and taken away, in a ring of its own in which nothing plays by itself.
gate=$scratch/gate
cat >"$scratch/w.yaml" <<Y
version: 1
name: waiter
configs: [connect4_2p]
stages:
  selfplay:
    argv: [sh, -c, 'until [ -e "\$0" ]; do sleep 0.2; done; exec "\$@"', "$gate", "{self}", workload, connect4, selfplay, --games, "2", --simulations, "1", --seed, "7", --out, "{out}/games.db"]
    needs: {cpu: 1}
    timeout: 10m
    grace: 2s
    outputs: [{path: games.db, kind: games, min: {games: 1}}]
Y
printf 'timing: dev\nvoters: 3\nworkload: w.yaml\ndaemons: {QUEUE_POPULATOR: {enabled: false}}\n' >"$scratch/ring.yaml"
make_ring leavers "$scratch/ring.yaml" c1 c2 c3 e1 || verdict
everybody() { # everybody NODE: it sees all of them, and the state has those that came back
  local c
  all_alive "$1" 4 && voters "$1" 3 || return 1
  for c in c1 c2 c3; do ra $c daemon explain DATA_PIPELINE --json >"$log" && ! grep -q 'no: left' "$log" || return 1; done
  sleep 3 # for the coordinator to hear from them
}
state_is() { [ "$(ra "$1" work show "$2" --json | field state)" = "$3" ]; }
is() { [ "$(ra "$1" members --status "$3" --json | tr -d '\n ' | grep -c "\"name\":\"$2\"")" = 1 ]; }
ended() { ! kill -0 "$1" 2>/dev/null; }
other() { case $1 in c1) echo c2 ;; *) echo c1 ;; esac; }
runner() { # runner ASKED ITEM: waits until the item runs, and leaves who runs it in $who and somebody else in $at
  check "an item runs" until_true 30 state_is "$1" "$2" running
  who=$(ra "$1" work show "$2" --json | field claimed_by); at=$(other "$who")
}
expect 0 '"properties"' ra c1 config schema
expect 0 '' ra c1 config apply "$scratch/ring.yaml" --json
check "config apply --json" "$probe" keys . version settings <"$log"
check "it is the second version" [ "$(field version <"$log")" = 2 ]
expect 0 'version 3' ra c2 config apply "$scratch/ring.yaml"
row() { ra c1 daemons --json | "$probe" keys daemons name node epoch standby; }
check "every row of daemons has node, epoch and standby" row
since() { ra c1 daemons --node c1 --json | tr -d '\n ' | grep -o '"name":"EVENT_ROUTER"[^}]*"RUNNING"[^}]*"since":"[^"]*"'; }
before=$(since)
expect 0 '' ra c1 daemon restart EVENT_ROUTER
restarted() { local now; now=$(since) && [ "$now" != "$before" ]; }
check "it runs anew" until_true 20 restarted
expect 0 '' ra c2 daemon restart DATA_PIPELINE
expect 4 '' ra c1 daemon restart NO_SUCH
# leave: what runs is handed back.
ra c1 work add selfplay --config connect4_2p --json >"$log"; w=$(field id <"$log")
runner c1 "$w"; eval "pid=\$pid_$who"
expect 0 '"unsynced_games": *0' ra "$who" leave --json
check "the item was handed back" bash -c "! '$RINGAGENT' --data-dir '$scratch/$at' work show $w --json | grep -q 'node left'"
check "the agent of $who ends" until_true 25 ended "$pid"
check "$at sees that it has left" until_true 10 is "$at" "$who" left
expect 3 '' ra "$who" members
start "$who"
check "it is back with the certificate that it has" until_true 60 everybody "$at"
# leave --drain: what runs comes to its own end.
runner "$at" "$w"; eval "pid=\$pid_$who"
expect 2 'drain' ra "$who" leave --limit 1s
ra "$who" leave --drain --json >"$scratch/left" 2>"$scratch/left.err" & leaver=$!
check "$who drains" until_true 20 is "$at" "$who" draining
check "its job goes on" state_is "$at" "$w" running
expect 8 'leaving' ra "$who" leave
touch "$gate"; wait $leaver; code=$?
check "leave --drain: exit $code" [ $code = 0 ]
check "its JSON" "$probe" keys . ok unsynced_games <"$scratch/left"
check "the item is done" state_is "$at" "$w" done
check "the agent of $who ends, too" until_true 25 ended "$pid"
start "$who"
check "it is back again" until_true 60 everybody "$at"
rm "$gate"
# A cancelled item is queued again.
ra c1 work add selfplay --config connect4_2p --json >"$log"; w=$(field id <"$log")
expect 0 '' ra c1 work cancel "$w"
check "it is cancelled" until_true 20 state_is c1 "$w" cancelled
expect 0 '' ra c2 work retry "$w"
touch "$gate"
check "and done after all" until_true 60 state_is c1 "$w" done
expect 8 '' ra c1 work retry "$w"
# Dead letters: there are none, and the verbs say so.
for v in show retry drop; do expect 4 '' ra c1 dlq $v nothing; done
# force-leave --prune: forgotten.
kill -9 "$pid_e1"; wait "$pid_e1" 2>/dev/null
expect 0 '' ra c2 force-leave e1 --prune
pruned() { ra "$1" members --json >"$log" && ! grep -q '"e1"' "$log"; }
for c in c1 c2 c3; do check "$c has forgotten e1" until_true 30 pruned $c; done
start e1
shut() { sleep 5; pruned c1; }
check "and does not take it back" shut
verdict
