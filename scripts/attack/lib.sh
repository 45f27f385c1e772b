# Shared by the attack scripts: a scratch folder, checks that count, rings of real agents, and a clean end.
# Usage: . "$(dirname "$0")/lib.sh"; the binary is $RINGAGENT (default: bin/ringagent beside the scripts).
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
RINGAGENT=${RINGAGENT:-$here/../../bin/ringagent}
[ -x "$RINGAGENT" ] || { echo "no binary at $RINGAGENT; run make build or set RINGAGENT" >&2; exit 2; }
unset RINGAGENT_TOKEN RINGAGENT_DATA_DIR RINGAGENT_SOCKET RINGAGENT_JSON
PORT=${PORT:-21800}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/ringattack.XXXXXX")
log=$scratch/out
pids=()
mounts=()
failed=0
checks=0

finish() {
  local p m
  for p in "${pids[@]:-}"; do [ -n "$p" ] && kill -9 "$p" 2>/dev/null; done
  for p in "${pids[@]:-}"; do [ -n "$p" ] && wait "$p" 2>/dev/null; done
  reap_jobs
  for m in "${mounts[@]:-}"; do [ -n "$m" ] && umount "$m" 2>/dev/null; done
  if [ $failed -eq 0 ] || [ -z "${KEEP:-}" ]; then rm -rf "$scratch"; else echo "left for a look: $scratch"; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

# Jobs outlive their agents by design; those of this scratch folder end with the script.
reap_jobs() {
  local p
  for p in $(job_pids "$scratch"); do kill -9 "$p" 2>/dev/null; done
}

# job_pids PATH: processes whose command line or environment names PATH, this script's own family left out.
job_pids() {
  local d p
  for d in /proc/[0-9]*; do
    p=${d#/proc/}
    [ "$p" = $$ ] || [ "$p" = "$BASHPID" ] && continue
    if tr '\0' '\n' <"$d/cmdline" | grep -qF -- "$1" || tr '\0' '\n' <"$d/environ" | grep -qF -- "$1"; then echo "$p"; fi
  done 2>/dev/null
}

ok() { checks=$((checks + 1)); echo "ok    $*"; }
bad() { checks=$((checks + 1)); failed=$((failed + 1)); echo "FAIL  $*"; }
check() { # check WHAT COMMAND…: holds when the command succeeds
  local what=$1; shift
  if "$@"; then ok "$what"; else bad "$what"; fi
}
verdict() {
  echo "$checks checks, $failed failed"
  [ $failed -eq 0 ]; exit $?
}

# expect CODE PATTERN COMMAND…: exit code and an extended pattern in stdout or stderr ("" = anything). $log keeps the output.
expect() {
  local code=$1 pattern=$2; shift 2
  if [ "$1" = ra ]; then set -- "$RINGAGENT" --data-dir "$scratch/$2" "${@:3}"; fi
  timeout -k 3 "${LIMIT:-60}" "$@" >"$log" 2>"$log.err" </dev/null
  local got=$?
  shorten "$@"
  if [ $got -ne "$code" ]; then bad "$shown: exit $got, want $code: $(head -c 300 "$log.err" | tr '\n' ' ')"; return 1; fi
  if [ -n "$pattern" ] && ! cat "$log" "$log.err" | grep -Eq -- "$pattern"; then
    bad "$shown: exit $got, but nothing like /$pattern/ in: $(cat "$log" "$log.err" | head -c 300 | tr '\n' ' ')"; return 1
  fi
  ok "$shown -> $got $(cat "$log.err" | head -c 160 | tr '\n' ' ')"
}
shorten() { shown="$*"; [ ${#shown} -gt 300 ] && shown="${shown:0:300}…"; shown=${shown//$scratch/\~}; shown=${shown//$RINGAGENT/ringagent}; }

# until_true SECONDS COMMAND…: polls.
until_true() {
  local end=$(($(date +%s) + $1)); shift
  while ! "$@" >/dev/null 2>&1; do
    [ "$(date +%s)" -ge $end ] && return 1
    sleep 0.2
  done
}

ra() { local n=$1; shift; "$RINGAGENT" --data-dir "$scratch/$n" "$@"; }
field() { "$probe" field "$1"; } # field PATH <JSON: like members.0.name

start() { # start NODE [ENV=VALUE…]: runs the node's agent; its pid is in pid_NODE
  local n=$1; shift
  env "$@" "$RINGAGENT" agent --data-dir "$scratch/$n" >>"$scratch/$n.log" 2>&1 </dev/null &
  eval "pid_$n=$!"
  pids+=($!)
}
coordinated() { ra "$1" leader; }
voters() { [ "$(ra "$1" leader --json | "$probe" count voters)" -ge "$2" ]; }

# make_ring NAME RINGCONFIG NODE…: the first node makes the ring, core nodes begin with c, edge nodes with e.
make_ring() {
  local ring=$1 conf=$2 first=$3 n class cores=0 port; shift 2
  for n in "$@"; do
    PORT=$((PORT + 1)); eval "port_$n=$PORT"
    case $n in c*) class=core; cores=$((cores + 1)) ;; *) class=edge ;; esac
    if [ "$n" = "$first" ]; then
      "$RINGAGENT" init --data-dir "$scratch/$n" --ring "$ring" --ring-config "$conf" --node-name "$n" --listen 127.0.0.1:$PORT >"$log" || return 1
      start "$n"
      until_true 60 coordinated "$n" || { bad "$n does not coordinate"; return 1; }
    else
      eval port=\$port_$first
      ra "$first" token create --class $class | "$RINGAGENT" join 127.0.0.1:$port --data-dir "$scratch/$n" --node-name "$n" --listen 127.0.0.1:$PORT --token-file - --enrol-only >"$log" || return 1
      start "$n"
    fi
  done
  if [ $cores -ge 3 ]; then until_true 90 voters "$first" 3 || { bad "no three voters"; return 1; }; fi
  until_true 60 all_alive "$first" $# || { bad "not all are alive"; return 1; }
}
all_alive() { [ "$(ra "$1" members --status alive --json | "$probe" count members)" -eq "$2" ]; }

build_probe() {
  probe=$scratch/probe
  if [ -n "${PROBE:-}" ]; then cp "$PROBE" "$probe"; return; fi # built once for several scripts
  (cd "$here" && ${GO:-go} build -o "$probe" ./probe) || { echo "cannot build the probe" >&2; exit 2; }
}

quiet_ring() { # settings of a ring in which nothing plays
  printf 'timing: dev\nvoters: 3\n' >"$scratch/ring.yaml"
}
