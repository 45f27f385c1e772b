# What demo.sh and soak.sh share: a ring of real agent processes in a folder of its own, questions to it through the same
# binary that an operator has, and claims about it. It is sourced, by bash; besides the binary it needs coreutils, grep, sed
# and awk.
#
# The caller sets BIN (the binary) and calls workspace first. A ring is one folder ($RING) with nodes n1 to n5, of which n1
# to n3 may vote.

CORE='n1 n2 n3'
NODES='n1 n2 n3 n4 n5'
CONFIG=connect4_2p

# --- time -----------------------------------------------------------------------------------------------------------------

# now is the time in milliseconds.
now() {
  if [ -n "${EPOCHREALTIME:-}" ]; then
    local t=${EPOCHREALTIME/[.,]/}
    echo $((t / 1000))
  else
    date +%s000
  fi
}

# secs MS prints milliseconds as seconds.
secs() { printf '%d.%d' $(($1 / 1000)) $(($1 % 1000 / 100)); }

BEGAN=$(now)
say() { printf '%6ss  %s\n' "$(secs $(($(now) - BEGAN)))" "$*"; }

# --- claims ---------------------------------------------------------------------------------------------------------------

# fail WHAT says what did not hold and where the logs are, keeps the folder, and ends the script.
fail() {
  {
    printf '\nFAILED: %s\n' "$*"
    if [ -n "${RING:-}" ] && [ -d "$RING" ]; then
      echo 'logs:'
      for log in "$RING"/dev.log "$RING".log "$RING"/n*/agent.log; do
        [ ! -f "$log" ] || echo "  $log"
      done
    fi
  } >&2
  KEEP=1
  exit 1
}

# holds WHAT COMMAND... fails unless the command succeeds.
holds() {
  local what=$1
  shift
  "$@" || fail "$what"
}

# await MS WHAT COMMAND... asks until the command succeeds, and leaves in TOOK how long that took; fails after MS, times
# PATIENCE (1) on a machine that has other things to do.
await() {
  local limit=$(($1 * ${PATIENCE:-1})) what=$2 start
  shift 2
  start=$(now)
  until "$@" 2>/dev/null; do
    TOOK=$(($(now) - start))
    [ "$TOOK" -lt "$limit" ] || fail "$what: not within $(secs "$limit") s"
    [ -z "${DEV:-}" ] || kill -0 "$DEV" 2>/dev/null || fail "$what: the ring has ended by itself"
    sleep 0.1
  done
  TOOK=$(($(now) - start))
}

# --- JSON of our own binary -------------------------------------------------------------------------------------------------

# rows turns a printed list into one element a line, and a single object into one line.
rows() {
  awk '
    /^  "[a-z_]*": \[$/ { inside = 1; next }
    inside && /^    \{$/ { row = "{"; next }
    inside && /^    \},?$/ { print row "}"; next }
    inside && /^  \],?$/ { inside = 0; next }
    { line = $0; sub(/^ +/, "", line); if (match(line, /^"[^"]*": /)) line = substr(line, 1, RLENGTH - 1) substr(line, RLENGTH + 1) }
    inside { row = row line; next }
    { rest = rest line }
    END { if (rest != "{}" && rest !~ /^\{"(index|as_of)":[^,]*\}$/) print rest }'
}

# cols KEY... prints those fields of each line, separated by blanks; "-" for null, an empty text or a missing field. A list
# is printed with commas. The first field of that name in a line counts.
cols() {
  awk -v keys="$*" '
    function get(line, key,   i, s, c) {
      i = index(line, "\"" key "\":")
      if (!i) return "-"
      s = substr(line, i + length(key) + 3)
      c = substr(s, 1, 1)
      if (c == "\"") { s = substr(s, 2); s = substr(s, 1, index(s, "\"") - 1) }
      else if (c == "[") { s = substr(s, 2, index(s, "]") - 2); gsub(/[" ]/, "", s) }
      else { match(s, /^[^],}]*/); s = substr(s, 1, RLENGTH) }
      return s == "" || s == "null" ? "-" : s
    }
    BEGIN { n = split(keys, k, " ") }
    { out = ""; for (i = 1; i <= n; i++) out = out (i > 1 ? " " : "") get($0, k[i]); print out }'
}

# --- the ring ---------------------------------------------------------------------------------------------------------------

# workspace makes the folder that everything is in; it is removed at the end, unless something failed or KEEP is set.
workspace() {
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/ringagent-$1.XXXXXX")
  KEEP=${KEEP:-}
  DEV=
  trap 'leave_workspace $?' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

leave_workspace() {
  trap - EXIT INT TERM
  local pid
  ring_stop || true
  for pid in $(jobs -p); do kill "$pid" 2>/dev/null; done
  [ -z "${RING:-}" ] || ring_processes | while read -r pid _; do kill -9 "$pid" 2>/dev/null; done
  if [ -n "$KEEP" ]; then
    echo "kept: $WORK" >&2
  else
    rm -rf "$WORK"
  fi
  exit "$1"
}

# ring_start NAME FOR starts a fresh ring that ends by itself after FOR at the latest, whatever becomes of us. Its progress
# goes to $RING.log, and with SHOW set also to whoever watches.
ring_start() {
  RING=$WORK/$1
  STARTED=$(now)
  set -m # a process group of its own: a Ctrl-C reaches the ring once, through us, and not twice, which would mean "at once"
  if [ -n "${SHOW:-}" ]; then
    "$BIN" dev --dir "$RING" --base-port "${BASE_PORT:-8770}" --for "$2" > >(tee "$RING.log") 2>&1 &
  else
    "$BIN" dev --dir "$RING" --base-port "${BASE_PORT:-8770}" --for "$2" > "$RING.log" 2>&1 &
  fi
  DEV=$!
  set +m
  await 90000 'a ring of five nodes and three voters' grep -q ' ready: ' "$RING.log"
}

# ring_stop ends the ring and shows that nothing of it is left.
ring_stop() {
  [ -n "${DEV:-}" ] || return 0
  kill -TERM "$DEV" 2>/dev/null
  wait "$DEV" 2>/dev/null
  DEV=
  ring_gone
}

# ring_gone succeeds when no process works in the ring's folder any more; an agent lets its lock go a moment before it ends.
ring_gone() {
  local left tries=30
  [ -d /proc/self ] || return 0
  while left=$(ring_processes) && [ -n "$left" ]; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || {
      echo "still running after the ring has ended:" >&2
      echo "$left" >&2
      return 1
    }
    sleep 0.1
  done
}

# ring_processes prints "pid command line" of whatever works in the ring's folder, or in that of one of its nodes.
ring_processes() {
  local f args
  grep -alF -- "$RING/${1:-}" /proc/[0-9]*/cmdline 2>/dev/null | while read -r f; do
    args=$(cat "$f" 2>/dev/null | tr '\0' ' ')
    case "$args" in "$BIN "*) f=${f#/proc/} && echo "${f%/cmdline} $args" ;; esac
  done
}

# ra NODE VERB... asks a node's agent.
ra() {
  local node=$1
  shift
  "$BIN" --data-dir "$RING/$node" "$@"
}

# pid_of NODE is the process that holds the node's data dir.
pid_of() { tr -d '[:space:]' < "$RING/$1/agent.lock"; }

running() { kill -0 "$(pid_of "$1")" 2>/dev/null; }

# other NODE... prints a live node that is none of these.
other() {
  local n
  for n in $NODES; do
    case " $* " in *" $n "*) continue ;; esac
    [ -d "$RING/$n" ] && running "$n" && { echo "$n"; return 0; }
  done
  return 1
}

# kill_agent NODE ends a node's agent as a crash would.
kill_agent() {
  local pid
  pid=$(pid_of "$1")
  kill -9 "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
}

# start_agent NODE starts it again, as an operator would.
start_agent() {
  "$BIN" agent --data-dir "$RING/$1" >> "$RING/$1/agent.log" 2>&1 &
  disown # or bash would tell us when it is killed again
}

coordinator() { ra "$1" leader --json 2>/dev/null | rows | cols coordinator; }

# coordinator_is_not NODE, asked at live voters: somebody else coordinates; prints who.
coordinator_is_not() {
  local v c
  for v in $CORE; do
    [ "$v" != "$1" ] && running "$v" || continue
    c=$(coordinator "$v")
    [ -n "$c" ] && [ "$c" != - ] && [ "$c" != "$1" ] && { NEW=$c; return 0; }
  done
  return 1
}

# boot_of NODE VIA is the boot id under which VIA knows a node.
boot_of() { ra "$2" members --json | rows | cols name boot | awk -v n="$1" '$1 == n { print $2 }'; }

# full_member NODE OLDBOOT VIA: it lives under a new boot for others, votes if it is a core node, sees a coordinator and a
# quorum itself, has the whole log, and all its node-scope daemons run.
full_member() {
  local node=$1 old=$2 via=$3 voter=false
  case " $CORE " in *" $node "*) voter=true ;; esac
  ra "$via" members --json | rows | cols name status voter boot |
    awk -v n="$node" -v v=$voter -v old="$old" '$1 == n && $2 == "alive" && $3 == v && $4 != old && $4 != "-" { ok = 1 } END { exit !ok }' || return 1
  ra "$node" status --json | rows | cols quorum_ok coordinator lag |
    awk '$1 == "true" && $2 != "-" && $3 != "-" && $3 < 50 { ok = 1 } END { exit !ok }' || return 1
  ra "$node" daemons --json | rows | cols scope node state |
    awk -v n="$node" '$1 == "node" && $2 == n { all++; good += $3 == "RUNNING" } END { exit !(all >= 8 && good == all) }'
}

# singletons VIA prints "name node epoch state" of every cluster-scope daemon.
singletons() { ra "$1" daemons --json | rows | cols scope name node epoch state | sed -n 's/^cluster //p'; }

# champion VIA prints "version sha256" of the champion.
champion() { ra "$1" models --json --config $CONFIG 2>/dev/null | rows | cols version sha256 | sed -n 1p; }

promotions() { champion "$1" | cut -d' ' -f1 | grep . || echo 0; }

promoted() { [ "$(promotions "$2")" -ge "$1" ]; }

# blob NODE SHA256 is where a node keeps an artifact's bytes.
blob() { echo "$RING/$1/blobs/sha256/${2:0:2}/$2"; }

sha_of() { sha256sum < "$1" | cut -d' ' -f1; }

# champion_everywhere VIA: every node has the champion's bytes, in its store and under models/; leaves them in CHAMPION.
champion_everywhere() {
  local n file version
  read -r version CHAMPION <<< "$(champion "$1")"
  [ -n "$CHAMPION" ] || return 1
  for n in $NODES; do
    [ -d "$RING/$n" ] || continue
    file=$(blob "$n" "$CHAMPION")
    [ -f "$file" ] && [ "$(sha_of "$file")" = "$CHAMPION" ] || return 1
    file=$(ls "$RING/$n/models/"*"${CHAMPION:0:12}"* 2>/dev/null | sed -n 1p)
    [ -n "$file" ] && [ "$(sha_of "$file")" = "$CHAMPION" ] || return 1
  done
  VERSION=$version
}

games() { ra "$1" games --json | rows | cols games | sed -n 1p; }

# verified VIA: the log's hash chain is sound, and alike on all nodes. Of a node whose folder is deleted nothing can be known, and
# that must be said; of all others it must be known.
verified() {
  local n
  ra "$1" events verify --all-nodes --json > "$WORK/verify.txt" 2> "$WORK/verify.err" && return 0
  [ $? -eq 7 ] && [ -n "$(rows < "$WORK/verify.txt")" ] || return 1
  for n in $(rows < "$WORK/verify.txt" | cols node ok | awk '$1 != "-" && $2 != "true" { print $1 }'); do
    [ ! -d "$RING/$n" ] || return 1
  done
}

# log_of NODE prints a node's replica of the log as JSON lines.
log_of() { ra "$1" events tail --from-start --json; }

# fenced reads a log: nothing may stand unmarked under an epoch that a later one of the same daemon has already overtaken.
fenced() {
  cols seq daemon epoch stale |
    awk '$2 != "-" && $3 + 0 > 0 { if ($4 != "true" && $3 + 0 < top[$2]) { print "seq " $1 ": " $2 " under epoch " $3 " after epoch " top[$2]; bad = 1 } if ($3 + 0 > top[$2]) top[$2] = $3 + 0 } END { exit bad }'
}
