#!/usr/bin/env bash
# A clumsy newcomer: bad config, bad flags, used and foreign folders, ports, locks. Every answer is one clear error with its
# exit code, and nothing is left half done.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build_probe
R=$RINGAGENT
untouched() { [ ! -e "$1" ]; }
one_line() { [ "$(wc -l <"$log.err")" -le 2 ]; } # the error, and at most one hint

# Commands and flags.
expect 2 'member' "$R" member; check "one line" one_line
expect 2 'members' "$R" membres
expect 2 'unknown command' "$R" trace x
expect 2 'unknown command' "$R" doctor
expect 2 'unknown command' "$R" token creat
expect 2 'create' "$R" token creat
expect 2 '\-\-json' "$R" members --jsn
expect 2 'unknown flag' "$R" --frobnicate members
expect 2 'unknown flag' "$R" events tail -x
expect 2 'argument' "$R" members extra
expect 2 'needs a value' "$R" members --status
expect 2 'want alive' "$R" members --status bogus
expect 2 'ttl' "$R" token create --ttl 5
expect 2 'ttl' "$R" token create --ttl -1s
expect 2 'uses' "$R" token create --uses 0
expect 2 'class' "$R" token create --class king
expect 2 'timeout' "$R" --timeout never members
expect 2 'SEED' "$R" join
expect 2 'seed|port' "$R" join host:99999 --data-dir "$scratch/none"
expect 2 '' "$R" events publish
expect 2 'JSON' "$R" events publish OPERATOR_NOTE --payload '{'
expect 2 'payload' "$R" events publish OPERATOR_NOTE --payload @/nowhere
expect 2 'choose one' "$R" events tail --after 1 --from-start
expect 2 'glob|pattern|syntax' "$R" events tail --type '['
expect 2 '' "$R" completion tcsh
expect 2 'nodes' "$R" dev --nodes 0 --dir "$scratch/d"
check "dev --nodes 0 leaves no folder" untouched "$scratch/d"
expect 2 'workload' "$R" dev --workload /nowhere --dir "$scratch/d"
expect 2 'workload' "$R" dev --workload "$scratch" --dir "$scratch/d"
check "dev with a bad workload leaves no folder" untouched "$scratch/d"
expect 0 '"version"' "$R" version --json
expect 0 '' "$R" completion bash
expect 0 '' "$R" completion zsh
expect 0 '' "$R" completion fish
expect 0 'USAGE' "$R" help
expect 0 'USAGE' "$R" events tail --help
expect 0 'from-start' "$R" help events tail
expect 2 'unknown command .*did you mean' "$R" help bogus; check "one line" one_line
expect 0 'ringagent' "$R" --version
expect 2 'needs --kind KIND' "$R" data put "$scratch/f"; check "one line" one_line
expect 2 '"code":"usage".*--kind' "$R" data put --json
expect 2 'needs --out FILE' "$R" data get
expect 2 '"code":"usage".*--out' "$R" data get abcd --json
expect 2 'needs --config CONFIG' "$R" work add selfplay; check "one line" one_line
for v in daemon work events dlq data token config; do expect 2 '"code":"usage".* one of ' "$R" $v --json; check "and no help" [ ! -s "$log" ]; done
expect 4 '<board>' "$R" events types '<board>' --json
expect 2 '"code":"usage"' "$R" members --timeout never --json
expect 2 'RINGAGENT_TIMEOUT="abc": want a duration' env RINGAGENT_TIMEOUT=abc "$R" members
expect 2 'data-dir' "$R" --data-dir "" members
expect 0 'ringagent' env RINGAGENT_DATA_DIR= RINGAGENT_TIMEOUT= "$R" version
expect 2 'needs exactly one token ID' "$R" token revoke
check "the name is said once" bash -c "! grep -q 'ringagent: ringagent' '$log.err'"
expect 2 'did you mean d' "$R" dashboard
# An answer of which a part is lost is no success.
for v in version 'version --json' 'events types' 'events types --json' help 'config show' 'completion bash'; do expect 1 'no space' bash -c "'$R' $v >/dev/full"; done
check "no workload in the help" bash -c "! '$R' help | grep -q '^ *workload '"
expect 0 '' "$R"

# No agent.
for v in "members" "leader" "status" "daemons" "work list" "data ls" "games" "models" "elo" "dlq list" "events tail" "events verify" "token list" "events publish OPERATOR_NOTE --payload {\"text\":\"x\"}" "leave" "force-leave x" "config show --scope ring"; do
  expect 3 'ringagent agent|not reach|no agent' "$R" --data-dir "$scratch/nobody" $v
done
check "asking makes no folder" untouched "$scratch/nobody"
expect 3 '"code":"unreachable"' "$R" members --json --data-dir "$scratch/nobody"
check "error JSON has code and message" "$probe" keys error code message hint <"$log.err"
expect 3 '"code"' "$R" --json members --data-dir "$scratch/nobody"
expect 2 '"code":"usage"' "$R" members --jsn --json
expect 2 '"code"' env RINGAGENT_JSON=true "$R" membres
expect 3 '' env RINGAGENT_DATA_DIR="$scratch/nobody" "$R" members
expect 3 '' env RINGAGENT_SOCKET="$scratch/nobody/s" "$R" members

# Config files.
conf() { printf "$1" >"$scratch/c.yaml"; }
conf 'listen: 127.0.0.1:1\nfrobnicate: 3\n'; expect 2 '2' "$R" init --config "$scratch/c.yaml" --data-dir "$scratch/i"
check "the unknown key is named" grep -q frobnicate "$log.err"
conf 'listen: nonsense\n'; expect 2 'listen' "$R" init --config "$scratch/c.yaml" --data-dir "$scratch/i"
conf 'listen: 127.0.0.1:1\n'
expect 2 'RINGAGENT_LISTEN: ' env RINGAGENT_LISTEN=foo "$R" init --config "$scratch/c.yaml" --data-dir "$scratch/i"
expect 2 ' --listen: ' "$R" init --config "$scratch/c.yaml" --data-dir "$scratch/i" --listen foo
conf 'log: {level: loud}\n'; expect 2 'log.level' "$R" init --config "$scratch/c.yaml" --data-dir "$scratch/i"
conf 'node_name: "a b"\n'; expect 2 'node_name' "$R" init --config "$scratch/c.yaml" --data-dir "$scratch/i"
conf 'slots: {cpu: many}\n'; expect 2 '1' "$R" init --config "$scratch/c.yaml" --data-dir "$scratch/i"
conf 'slots: {cpu: 1}\nslots: {cpu: 2}\n'; expect 2 'slots' "$R" init --config "$scratch/c.yaml" --data-dir "$scratch/i"
conf 'listen: :1\0\n'; expect 2 '' "$R" init --config "$scratch/c.yaml" --data-dir "$scratch/i"
conf 'advertise: 0.0.0.0:1\n'; expect 2 'advertise' "$R" init --config "$scratch/c.yaml" --data-dir "$scratch/i"
head -c 2000000 /dev/zero >"$scratch/big.yaml"; expect 2 '' "$R" init --config "$scratch/big.yaml" --data-dir "$scratch/i"
head -c 20000 /dev/zero | tr '\0' '[' >"$scratch/deep.yaml"; LIMIT=10 expect 2 '' "$R" init --config "$scratch/deep.yaml" --data-dir "$scratch/i"
mkfifo "$scratch/fifo"; LIMIT=5 expect 2 'regular' "$R" init --config "$scratch/fifo" --data-dir "$scratch/i"
LIMIT=5 expect 2 'regular' "$R" validate "$scratch/fifo"
LIMIT=5 expect 2 '' "$R" join 127.0.0.1:1 --token-file "$scratch/fifo.none" --data-dir "$scratch/i"
expect 2 'regular|directory' "$R" agent --config "$scratch" --data-dir "$scratch/i"
expect 2 'no such file' "$R" agent --config "$scratch/none.yaml" --data-dir "$scratch/i"
conf 'voters: 2\n'; expect 2 'voters' "$R" init --ring-config "$scratch/c.yaml" --data-dir "$scratch/i"
conf 'workload: none.yaml\n'; expect 2 'none.yaml' "$R" init --ring-config "$scratch/c.yaml" --data-dir "$scratch/i"
conf 'daemons: {AUTO_SINK: {}}\n'; expect 2 'AUTO_SINK' "$R" init --ring-config "$scratch/c.yaml" --data-dir "$scratch/i"
conf 'daemons: {AUTO_EXPORT: {frob: 1}}\n'; expect 2 'frob' "$R" init --ring-config "$scratch/c.yaml" --data-dir "$scratch/i"
conf 'copies: {gold: 2}\n'; expect 2 'gold' "$R" init --ring-config "$scratch/c.yaml" --data-dir "$scratch/i"
expect 2 'ring name' "$R" init --ring 'a b' --data-dir "$scratch/i"
check "no bad init leaves a folder" untouched "$scratch/i"
conf 'version: 1\nname: x\nconfigs: [a_2p]\nstages: {selfplay: {argv: [x, "{secret}"], timeout: 1m, outputs: [{path: a, kind: file}]}}\n'
expect 2 'placeholder .*secret' "$R" validate "$scratch/c.yaml"
conf 'version: 1\nname: x\nconfigs: [a_2p]\nstages: {selfplay: {argv: [x], timeout: 1m, outputs: [{path: ../a, kind: file}]}}\n'
expect 2 'path' "$R" validate "$scratch/c.yaml"
expect 2 '"ok": *false' "$R" validate --json "$scratch/c.yaml" /nowhere
printf '\xef\xbb\xbflisten: 127.0.0.1:1\r\n' >"$scratch/c.yaml"; expect 0 'config' "$R" validate "$scratch/c.yaml"

# Folders.
expect 8 'init|join' "$R" agent --data-dir "$scratch/noring"
check "agent without a ring leaves no folder" untouched "$scratch/noring"
mkdir "$scratch/mine"; echo precious >"$scratch/mine/letter"; chmod 755 "$scratch/mine"
expect 8 '' "$R" init --data-dir "$scratch/mine" --listen 127.0.0.1:$((PORT + 1))
check "a foreign folder is left alone" [ "$(ls -A "$scratch/mine") $(stat -c %a "$scratch/mine")" = "letter 755" ]
expect 8 '' "$R" agent --data-dir "$scratch/mine"
check "a foreign folder is left alone by agent" [ "$(ls -A "$scratch/mine") $(stat -c %a "$scratch/mine")" = "letter 755" ]
echo x >"$scratch/file"
expect 2 'director|folder' "$R" init --data-dir "$scratch/file"
expect 8 'director|folder|ring' "$R" agent --data-dir "$scratch/file"
P=$((PORT + 1))
expect 0 '' "$R" init --data-dir "$scratch/a" --ring one --node-name a --listen 127.0.0.1:$P --json
check "init's JSON" "$probe" keys . ring ring_id node data_dir <"$log"
sum=$(find "$scratch/a" -type f -exec sha256sum {} + | sort | sha256sum)
expect 8 'already' "$R" init --data-dir "$scratch/a"
check "the used dir is as it was" [ "$sum" = "$(find "$scratch/a" -type f -exec sha256sum {} + | sort | sha256sum)" ]
check "data dir 0700, keys and token 0600" bash -c "[ \$(stat -c %a '$scratch/a') = 700 ] && ! find '$scratch/a' -type f -perm /077 | grep ."
start a
check "a coordinates" until_true 60 coordinated a
expect 8 'in use' "$R" agent --data-dir "$scratch/a"
expect 8 'already|in use' "$R" init --data-dir "$scratch/a"
expect 0 '' "$R" init --data-dir "$scratch/b" --node-name b --listen 127.0.0.1:$P
LIMIT=20 expect 1 'in use' "$R" agent --data-dir "$scratch/b"
check "the occupied address is named" grep -q "$P" "$log.err"
LIMIT=20 expect 1 'privilege|denied|assign|listen' "$R" agent --data-dir "$scratch/b" --listen 203.0.113.1:7
check "socket is 0600" [ "$(stat -c %a "$scratch/a/agent.sock")" = 600 ]
# Flags behind arguments.
expect 0 '"id"' ra a events publish OPERATOR_NOTE --payload '{"text":"x"}' --json --wait
check "publish --wait has id and seq" "$probe" keys . id seq <"$log"
expect 2 'no argument' ra a token create --class core extra --json
expect 4 '' ra a force-leave nobody
expect 8 'leave' ra a force-leave a
expect 8 'only voter' ra a leave
expect 8 'no other voter.*' ra a leader transfer
expect 2 'at most one NODE' ra a leader transfer a b
expect 3 '127.0.0.1:1' ra a join 127.0.0.1:1
expect 0 'nothing was promoted' ra a elo --plot
expect 4 '"code":"not_found"' ra a work show nothing --json
expect 4 '' ra a data where ffff
expect 4 '' ra a dlq show x
expect 4 '' ra a daemon explain AUTO_SINK
expect 4 '' ra a token revoke nothing
expect 2 'text' ra a events publish OPERATOR_NOTE
expect 2 '' ra a events publish NO_SUCH_TYPE
expect 8 '' ra a events publish MODEL_PROMOTED --payload '{"version":1,"sha256":"0000000000000000000000000000000000000000000000000000000000000000","previous_sha256":null,"elo":1,"elo_delta":null,"config_key":"connect4_2p"}'
# A listener that goes away must not be an error of ours.
check "a closed pipe ends quietly" bash -c "'$R' --data-dir '$scratch/a' events tail 2>'$scratch/pipe' | head -c 1 >/dev/null; [ \${PIPESTATUS[0]} -eq 0 ] && [ ! -s '$scratch/pipe' ]"
for v in members leader status daemons 'daemon explain EVENT_ROUTER' 'work list' 'data ls' 'data verify' games models elo 'token list' 'dlq list' 'events verify' 'events tail' 'config show --scope ring'; do
  expect 1 'no space' bash -c "'$R' --data-dir '$scratch/a' $v >/dev/full"
done
# Signals.
for s in INT TERM; do
  "$R" --data-dir "$scratch/a" events tail -f --from-start --json >"$scratch/tail" 2>"$scratch/tail.err" & tail=$!
  check "a follower follows" until_true 10 [ -s "$scratch/tail" ]
  kill -$s $tail; wait $tail; code=$?
  check "SIG$s ends it with 0 and no word: $code $(head -c 100 "$scratch/tail.err")" [ $code = 0 -a ! -s "$scratch/tail.err" ]
done
kill -TERM "$pid_a"; s=$(date +%s); wait "$pid_a"; code=$?
check "SIGTERM ends it with 0 within 25 s" [ $code -eq 0 -a $(($(date +%s) - s)) -le 25 ]
start a; check "a is back" until_true 60 coordinated a
printf 'listen: 127.0.0.1:%s\nnode_name: a\nfrob: 1\n' $P >"$scratch/a/config.yaml"
kill -HUP "$pid_a"; check "SIGHUP with a bad config is refused" until_true 10 grep -q 'reload refused' "$scratch/a.log"
check "and the agent goes on" coordinated a >/dev/null
verdict
