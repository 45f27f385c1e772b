#!/usr/bin/env bash
# Machines that are gone for good, a majority of the voters among them: `leader recover` makes of a survivor a ring again, with
# what was decided, and nothing else does. What the lost ones alone had of the event log is published again by whoever still
# has it; who was lost and comes back changes nothing; and it can be done twice.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build_probe; quiet_ring
make_ring recover "$scratch/ring.yaml" c1 c2 c3 e1 e2 || verdict

note() { ra "$1" events publish OPERATOR_NOTE --payload "{\"text\":\"$2\"}" --wait --json --timeout 20s | field seq; }
texts() { ra "$1" events tail --type OPERATOR_NOTE --json | grep -c "\"text\":\"$2\""; } # texts NODE TEXT: how often its replica has it
once() { local n; for n in "${@:2}"; do [ "$(texts "$n" "$1")" = 1 ] || return 1; done; } # once TEXT NODE…
whole() { ra "$1" events verify --all-nodes; }
gone() { local n p; for n in "$@"; do p=pid_$n; kill -9 "${!p}" 2>/dev/null; wait "${!p}" 2>/dev/null; done; }
nobody() { [ "$(ra "$1" leader --json 2>/dev/null | field coordinator)" = null ]; }
leads() { [ "$(ra "$1" leader --json 2>/dev/null | field coordinator)" = "$2" ]; } # leads VIA NODE
alone() { [ "$(ra "$1" leader --json | "$probe" count voters)" = 1 ]; }
running() { [ "$(ra "$1" status --json | grep -c '"state": "RUNNING"')" -ge 9 ]; }
joined_core() { # joined_core VIA NODE: a new core machine
  local via=$1 n=$2 port=port_$1
  PORT=$((PORT + 1)); eval "port_$n=$PORT"
  ra "$via" token create --class core | "$RINGAGENT" join "127.0.0.1:${!port}" --data-dir "$scratch/$n" --node-name "$n" --listen "127.0.0.1:$PORT" --token-file - --enrol-only >"$log" 2>&1 || return 1
  start "$n"
}

check "a note in the log" [ -n "$(note c1 before)" ]
expect 8 'coordinates the ring' ra c3 leader recover
expect 8 'coordinates the ring' ra c3 leader recover --lost c1 --lost c2
expect 4 '' ra c3 leader recover --lost nobody
expect 2 '' ra c3 leader recover c1

# c3 sleeps while the others decide; then they are gone for good. An edge node has seen, and stated, what c3 never heard.
check "c1 coordinates" until_true 30 leads e1 c1 || { ra c1 leader transfer c1 >/dev/null 2>&1; until_true 30 leads e1 c1; }
kill -STOP "$pid_c3"
check "a note of an edge node is in the log" [ -n "$(note e1 acknowledged)" ]
check "and one of a voter" [ -n "$(note c2 with-the-lost)" ]
check "both edge nodes have them" until_true 20 once with-the-lost e1 e2
gone c1 c2
kill -CONT "$pid_c3"
check "nobody coordinates" until_true 30 nobody c3
check "nor as the edge nodes see it" until_true 30 nobody e1
expect 8 'c1, c2: no answer' ra c3 leader recover
expect 8 'c2: no answer' ra c3 leader recover --lost c1
expect 8 'does not vote' ra c3 leader recover --lost c1 --lost c2 --lost e2
expect 8 'c3 answers' ra c3 leader recover --lost c1 --lost c2 --lost c3
expect 8 'edge node' ra e1 leader recover --lost c1 --lost c2
expect 5 '' ra c3 leader
expect 0 '"generation": 1' ra c3 leader recover --lost c1 --lost c2 --json
expect 8 'coordinates the ring' ra c3 leader recover --lost c1 --lost c2
check "c3 coordinates, as all see it" until_true 20 leads e1 c3
check "and e2" until_true 20 leads e2 c3
check "it is the only voter" alone c3
check "every singleton runs" until_true 30 running c3
check "c1 and c2 are shut out" [ "$(ra c3 members --json --status left | "$probe" count members)" = 2 ]
check "what was decided before is there" once before c3 e1 e2
check "what an edge node had acknowledged is in the log again" until_true 30 once acknowledged c3 e1 e2
check "all copies agree" until_true 60 whole e2
check "a new note" [ -n "$(note e2 after)" ]
check "everywhere once" until_true 20 once after c3 e1 e2

# The lost ones come back: they are a majority of the ring that was, and none of this one's matter.
start c1; start c2
check "the lost ones find each other" until_true 30 coordinated c1
expect 0 '' ra c3 events verify --all-nodes
check "nobody here follows them" leads e1 c3
check "nor is anything of theirs here" [ "$(texts e1 with-the-lost)" = 0 ]
check "they are told that they are shut out" until_true 20 sh -c "'$RINGAGENT' --data-dir '$scratch/c1' status --json | grep -q revoked"
gone c1 c2

# New machines vote; two of the three voters are lost again, and the node that coordinated first is one of them.
check "c4 enrols" joined_core c3 c4
check "c5 enrols" joined_core c3 c5
check "three voters" until_true 90 voters c3 3
check "a note" [ -n "$(note e1 second)" ]
check "all have it" until_true 20 once second c3 c4 c5 e1 e2
gone c3 c4
check "nobody coordinates" until_true 30 nobody c5
check "nor as the edge nodes see it" until_true 30 nobody e2
expect 0 'generation 2' ra c5 leader recover --lost c3 --lost c4
check "the edge nodes follow into the next generation" until_true 30 leads e1 c5
check "both" until_true 30 leads e2 c5
check "every singleton runs" until_true 30 running c5
check "a note" [ -n "$(note e2 third)" ]
check "everywhere once" until_true 20 once third c5 e1 e2
check "all copies agree" until_true 60 whole e1
check "and the old notes are there" once before c5 e1 e2

# It survives the end of the only voter.
gone c5; start c5
check "the only voter coordinates again" until_true 30 leads e1 c5
check "all copies agree" until_true 60 whole e2
verdict
