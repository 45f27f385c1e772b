#!/usr/bin/env bash
# A voter's data dir runs full: it says so, stays up, hands over if it coordinates, and is well again within 30 s of space
# being back. Needs root for a small tmpfs. Also: no ring and no membership is made half on a disk that is too small.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[ "$(id -u)" = 0 ] || { echo "skipped: mounting a tmpfs needs root"; exit 77; }
build_probe; quiet_ring
small() { mkdir -p "$scratch/$1"; mount -t tmpfs -o size="$2",mode=0700 tmpfs "$scratch/$1" && mounts+=("$scratch/$1"); }
small tiny 8m || { echo "skipped: no tmpfs here"; exit 77; }
expect 1 'space|disk' "$RINGAGENT" init --data-dir "$scratch/tiny" --node-name tiny --listen 127.0.0.1:$((PORT + 9))
check "a failed init leaves nothing" [ -z "$(ls -A "$scratch/tiny")" ]
small c1 160m
make_ring disk "$scratch/ring.yaml" c1 c2 c3 || verdict
ra c1 token create --class edge >"$scratch/tok"
expect 1 'space|disk' "$RINGAGENT" join 127.0.0.1:$port_c1 --data-dir "$scratch/tiny" --node-name tiny --listen 127.0.0.1:$((PORT + 9)) --token-file "$scratch/tok" --enrol-only
ls -A "$scratch/tiny" >"$scratch/left"; umount "$scratch/tiny"; small tiny 64m
expect 0 '' "$RINGAGENT" join 127.0.0.1:$port_c1 --data-dir "$scratch/tiny" --node-name tiny --listen 127.0.0.1:$((PORT + 9)) --token-file "$scratch/tok" --enrol-only
coordinator() { ra "$1" leader --json | field coordinator; }
is_coordinator() { [ "$(coordinator c2)" = "$1" ]; }
if ! is_coordinator c1; then ra c2 leader transfer c1 >/dev/null; until_true 20 is_coordinator c1; fi
check "c1, on the small disk, coordinates" is_coordinator c1
expect 0 '' ra c1 events publish OPERATOR_NOTE --payload '{"text":"before"}' --wait
dd if=/dev/zero of="$scratch/c1/filler" bs=64k >/dev/null 2>&1; full_at=$(date +%s)
check "the disk is full" bash -c "! head -c 100000 /dev/zero >'$scratch/c1/more' 2>/dev/null"; rm -f "$scratch/c1/more"; head -c 100000 /dev/zero >>"$scratch/c1/filler" 2>/dev/null
degraded() { ra c1 status --json | field degraded.0; }
other_leads() { local k; k=$(coordinator c2); [ "$k" = c2 ] || [ "$k" = c3 ]; }
check "another coordinates within 30 s" until_true 30 other_leads; echo "      after $(($(date +%s) - full_at)) s"
check "status of c1 says that it is degraded" until_true 30 degraded; echo "      $(degraded)"
expect 0 'degraded' ra c1 status
check "c1 stays up" kill -0 "$pid_c1"
LIMIT=20 expect 0 '' ra c2 events publish OPERATOR_NOTE --payload '{"text":"meanwhile"}' --wait
expect 0 'c1' ra c2 members --status alive
for i in $(seq 1 200); do ra c2 events publish OPERATOR_NOTE --payload "{\"text\":\"$(head -c 3000 /dev/zero | tr '\0' x)\"}" >/dev/null; done
LIMIT=15 expect 1 'space|full|stored' ra c1 events publish OPERATOR_NOTE --payload "{\"text\":\"$(head -c 60000 /dev/zero | tr '\0' y)\"}"
sleep 10
check "c1 is still up after $(($(date +%s) - full_at)) s" kill -0 "$pid_c1"
rm -f "$scratch/c1/filler"; freed=$(date +%s)
well() { ra c1 status --json >"$scratch/status" && ! field degraded.0 <"$scratch/status"; } # an agent that does not answer is not well
check "well again within 30 s of space being back" until_true 30 well; echo "      after $(($(date +%s) - freed)) s"
LIMIT=20 expect 0 '' ra c1 events publish OPERATOR_NOTE --payload '{"text":"after"}' --wait
expect 0 '' ra c2 force-leave tiny --prune # it has never run, so that nothing is known of its copy
same() { ra c2 events verify --all-nodes; }
check "all replicas agree" until_true 30 same
check "c1 votes" bash -c "'$RINGAGENT' --data-dir '$scratch/c2' leader --json | '$probe' field voters | grep -q c1"
no_alarm() { [ "$(ra c1 status --json | "$probe" count alarms)" = 0 ]; }
check "no alarm is left" until_true 30 no_alarm || ra c1 status
check "it is the same process" kill -0 "$pid_c1"
# An agent that ended on a full disk comes back on what was kept for that, and says what is wrong.
kill -9 "$pid_c1"; wait "$pid_c1" 2>/dev/null; dd if=/dev/zero of="$scratch/c1/filler" bs=4k >/dev/null 2>&1
start c1
answers() { ra c1 status; }
check "an agent starts on a full disk" until_true 30 answers || tail -2 "$scratch/c1.log"
rm -f "$scratch/c1/filler"
check "and is well when there is space" until_true 30 well
verdict
