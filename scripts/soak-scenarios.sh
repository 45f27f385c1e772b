# The scenarios of soak.sh, each a function that finds a healthy ring and leaves one. Sourced after lib.sh.

# figure NAME MS notes a measured time, count NAME N a number; figures prints least, middle and most of each.
figure() { echo "$2 $1" >> "$WORK/figures.ms"; say "    $1 $(secs "$2")"; }
count() { echo "$2 $1" >> "$WORK/figures.n"; say "    $1 $2"; }

figures() {
  local file unit
  printf '%-58s %9s %9s %9s %6s\n' FIGURE LEAST MIDDLE MOST TIMES
  for unit in ms n; do
    file=$WORK/figures.$unit
    [ -f "$file" ] || continue
    sort -k2 -k1,1n "$file" | awk -v div=$([ $unit = ms ] && echo 1000 || echo 1) '
      function put() { if (n) printf "%-58s %9.*f %9.*f %9.*f %6d\n", name, d, v[1] / div, d, v[int((n + 1) / 2)] / div, d, v[n] / div, n }
      BEGIN { d = div == 1 ? 0 : 1 }
      { x = $1; sub(/^[^ ]* /, ""); if ($0 != name) { put(); n = 0; name = $0 } v[++n] = x }
      END { put() }'
  done
}

# seen NAME: that number was above 0 in some round, or the rounds have shown nothing of it.
seen() { awk -v name="$1" '{ n = $1; sub(/^[^ ]* /, "") } $0 == name { sum += n } END { exit !sum }' "$WORK/figures.n" || fail "$1: 0 in every round"; }

# What strangers, newcomers and bad disks can do. A script that needs what this machine lacks is named, not counted.
scenario_attack() {
  local script name code
  for script in "$(dirname "$0")"/attack/*.sh; do
    name=$(basename "$script" .sh)
    [ "$name" != lib ] || continue
    began=$(now)
    RINGAGENT=$BIN KEEP=1 TMPDIR=$WORK bash "$script" > "$WORK/attack-$name.txt" 2>&1
    code=$?
    case $code in
      0) say "attack $name: $(tail -n 1 "$WORK/attack-$name.txt")"; figure "attack $name, s" $(($(now) - began)) ;;
      77) say "attack $name: $(tail -n 1 "$WORK/attack-$name.txt")" ;;
      *) fail "attack $name: exit $code: $(grep -a '^FAIL' "$WORK/attack-$name.txt" | head -n 5); see $WORK/attack-$name.txt" ;;
    esac
  done
}

# sound VIA: what must hold after every scenario.
sound() {
  holds "events verify --all-nodes: $(cat "$WORK/verify.txt" 2>/dev/null)" verified "$1"
  log_of "$1" > "$WORK/log" || fail "the log of $1 cannot be read"
  fenced < "$WORK/log" > "$WORK/fenced.txt" || fail "an older epoch took effect: $(cat "$WORK/fenced.txt")"
  await 15000 'the same champions on every node' names_agree
  names_in_order "$WORK/log" || fail "promotions in the log are not one a version: $(cat "$WORK/names.txt")"
}

# names_agree: every live node knows the same champions under the same versions.
names_agree() {
  local n first= list
  for n in $NODES; do
    [ -d "$RING/$n" ] && running "$n" || continue
    list=$(ra "$n" models --history --json | rows | cols version sha256) || return 1
    [ -n "$first" ] || first=$list
    [ "$list" = "$first" ] || return 1
  done
}

# names_in_order LOG: versions 1, 2, 3 … of MODEL_PROMOTED, each once.
names_in_order() {
  grep '"type":"MODEL_PROMOTED"' "$1" | cols seq version previous_sha256 sha256 > "$WORK/names.txt"
  awk '$2 != NR { exit 1 }' "$WORK/names.txt"
}

# all_run VIA GONE BEFORE: every cluster-scope daemon runs on a node other than GONE; those that BEFORE had there under a
# larger epoch, the others where they were under the same epoch.
all_run() {
  singletons "$1" > "$WORK/after"
  awk -v gone="$2" '
    NR == FNR { node[$1] = $2; epoch[$1] = $3; all++; next }
    { seen++
      if ($4 != "RUNNING" || $2 == "-" || $2 == gone && $3 == epoch[$1]) bad = 1
      if (node[$1] == gone && $3 <= epoch[$1]) bad = 1 }
    END { exit bad || seen != all }' "$3" "$WORK/after"
}

# unmoved GONE BEFORE: prints what moved although its node lived.
unmoved() {
  awk -v gone="$1" '
    NR == FNR { node[$1] = $2; epoch[$1] = $3; next }
    node[$1] != gone && ($2 != node[$1] || $3 != epoch[$1]) { print $1 " was on " node[$1] " under " epoch[$1] ", is on " $2 " under " $3; bad = 1 }
    END { exit bad }' "$2" "$WORK/after"
}

# Show line 2.
scenario_failover() {
  local victim via boot
  await 30000 'a coordinator' coordinator_is_not none # on a busy machine one may just have stepped down
  victim=$NEW
  via=$(other "$victim" n4 n5)
  boot=$(boot_of "$victim" "$via")
  singletons "$via" > "$WORK/before"
  count 'failover: singletons that the victim held' "$(awk -v v="$victim" '$2 == v' "$WORK/before" | wc -l)"
  say "  failover: kill -9 of $victim"
  kill_agent "$victim"
  local killed
  killed=$(now)
  await 4000 'another coordinator after kill -9 of the coordinator' coordinator_is_not "$victim"
  figure 'failover: another coordinator, s' $(($(now) - killed))
  await $((12000 - ($(now) - killed))) 'every cluster-scope daemon RUNNING on a live node after kill -9 of the coordinator' \
    all_run "$via" "$victim" "$WORK/before"
  figure 'failover: every singleton runs, s' $(($(now) - killed))
  unmoved "$victim" "$WORK/before" > "$WORK/moved" || fail "moved although its node lived: $(cat "$WORK/moved")"
  start_agent "$victim"
  await 30000 "$victim a full member again" full_member "$victim" "$boot" "$via"
  figure 'failover: full member again, s' "$TOOK"
  # The promotion comes when it comes; the next scenarios need not wait for it.
  OWED=$killed
  sound "$via"
}

# paid: the promotion that a failover owes was made, within 180 s of the kill.
paid() {
  [ -n "${OWED:-}" ] || return 0
  local left=$((180000 - ($(now) - OWED)))
  await $((left > 0 ? left : 1)) 'a promotion after the kill' promoted_since "$OWED" "$1"
  [ "$SINCE" -le 180000 ] || fail "the first promotion came $(secs "$SINCE") s after the kill"
  figure 'failover: next promotion, s' "$SINCE"
  OWED=
}

# promoted_since MS VIA: there was a promotion after that time; leaves in SINCE how long after it the first was, in ms.
promoted_since() {
  local at
  SINCE=
  for at in $(ra "$2" models --history --json | rows | cols promoted_at); do
    at=$(date -d "$at" +%s%N) || return 1
    at=$((at / 1000000 - $1))
    [ $at -le 0 ] || [ $at -ge "${SINCE:-$((at + 1))}" ] || SINCE=$at
  done
  [ -n "$SINCE" ]
}

# Show line 3. Odd rounds stop the coordinator, even ones the holder of AUTO_PROMOTION in the moment in which a candidate has
# been measured: it then has a verdict in hand, which is to be given once, by its successor if not before.
scenario_stopped() {
  local victim via pid stopped last late boot wait n in_hand=
  via=$(other) victim=$(coordinator "$(other)")
  [ $(($1 % 2)) -eq 1 ] || victim=$(singletons "$via" | awk '$1 == "AUTO_PROMOTION" { print $2 }')
  via=$(other "$victim" n4 n5)
  pid=$(pid_of "$victim") boot=$(boot_of "$victim" "$via")
  if [ $(($1 % 2)) -eq 0 ]; then
    timeout 180 "$BIN" --data-dir "$RING/$via" events tail -f --type EVALUATION_COMPLETED --limit 1 --json > "$WORK/evaluated" ||
      fail 'no candidate is measured within 180 s'
    in_hand=1
  fi
  kill -STOP "$pid"
  stopped=$(now)
  # Nobody else is assigned before the lease is over, so this is what it held. It does not answer for its own rows.
  singletons "$via" 2> /dev/null > "$WORK/before"
  awk -v v="$victim" '$2 == v { print $1, $3 }' "$WORK/before" > "$WORK/held"
  [ -s "$WORK/held" ] || fail "$victim holds nothing to lose"
  say "  stopped: SIGSTOP of $victim, which holds $(wc -l < "$WORK/held") singletons"
  await 22500 'successors of a stopped holder' all_run "$via" "$victim" "$WORK/before"
  figure 'stopped: successors run, s' $(($(now) - stopped))
  wait=$((22500 - ($(now) - stopped)))
  [ $wait -le 0 ] || sleep "$(secs $wait)"
  last=$(ra "$via" status --json | rows | cols last_seq | grep -m1 '[0-9]')
  ra "$via" work list --all --json | rows | cols id > "$WORK/work-before"
  for n in $NODES; do wc -c < "$RING/$n/agent.log" > "$WORK/logged-$n"; done
  kill -CONT "$pid"
  await 30000 "$victim a full member again after SIGCONT" full_member "$victim" none "$via"
  figure 'stopped: full member after SIGCONT, s' "$TOOK"
  holds "$victim has been started anew after SIGCONT" [ "$(pid_of "$victim") $(boot_of "$victim" "$via")" = "$pid $boot" ]
  await 15000 'as many promotions as before' promoted "$(promotions "$via")" "$victim"
  sleep 5 # what the continued node still had in hand arrives within this time, or never
  log_of "$via" > "$WORK/log"
  cols seq daemon epoch stale < "$WORK/log" |
    awk -v last="$last" 'NR == FNR { held[$1] = $2; next } $1 > last + 0 && ($2 in held) && $3 + 0 <= held[$2] + 0' "$WORK/held" - > "$WORK/late"
  late=$(grep -v ' true$' "$WORK/late" | head -n 5) && fail "took effect under an old epoch after SIGCONT (seq daemon epoch stale): $late"
  count 'stopped: late events, all marked stale' "$(wc -l < "$WORK/late")"
  ra "$via" work list --all --json | rows | cols id epoch | grep -vwFf "$WORK/work-before" |
    awk 'NR == FNR { old[$2]; next } $2 in old' "$WORK/held" - > "$WORK/late"
  [ ! -s "$WORK/late" ] || fail "work was queued under an old epoch after SIGCONT: $(cat "$WORK/late")"
  # Whoever coordinates says what it refuses.
  for n in $NODES; do tail -c "+$(($(cat "$WORK/logged-$n") + 1))" "$RING/$n/agent.log"; done | grep -F 'epoch that is over' | cols daemon epoch |
    grep -xFf "$WORK/held" > "$WORK/refused"
  count 'stopped: effects refused under an old epoch' "$(wc -l < "$WORK/refused")"
  [ -z "$in_hand" ] || decided_once "$via" "$last"
  sound "$via"
}

# decided_once VIA LAST: the candidate that was measured when the holder was stopped has one verdict: by a successor, or by the
# holder before it was stopped, which had to be in the log (at LAST or before) when it was continued.
decided_once() {
  local candidate seq epoch old
  candidate=$(cols sha256 < "$WORK/evaluated") old=$(awk '$1 == "AUTO_PROMOTION" { print $2 }' "$WORK/held")
  await 60000 "a verdict on $candidate" verdicts "$1" "$candidate"
  [ "$(wc -l < "$WORK/verdicts")" -eq 1 ] || fail "more than one verdict on $candidate: $(cat "$WORK/verdicts")"
  read -r seq epoch < "$WORK/verdicts"
  [ "$epoch" -gt "${old:-0}" ] || [ "$seq" -le "$2" ] || fail "the verdict on $candidate at seq $seq is under the old epoch $epoch, after SIGCONT"
  count 'stopped: verdicts in hand, given by the successor' $((epoch > ${old:-0}))
}

verdicts() {
  log_of "$1" | grep -E '"type":"(MODEL_PROMOTED|PROMOTION_REJECTED)"' | grep -F "\"sha256\":\"$2\"" | cols seq epoch > "$WORK/verdicts"
  [ -s "$WORK/verdicts" ]
}

# arrived NODE TAG N: the node's replica has N of them; their seq, publisher, number and id are left in a file.
arrived() {
  log_of "$1" | grep -F "\"$2\"" | cols seq publisher number id > "$WORK/arrived-$1"
  [ "$(wc -l < "$WORK/arrived-$1")" -ge "$3" ]
}

# Show line 4. The publishing takes PUBLISH seconds, so that both kills fall into the middle of it.
scenario_publishers() {
  local n each=$((events / 5)) tag=soak-$1-$$ to= pid began kill victim via boot first
  say "  publishers: $events events from five nodes, the coordinator killed twice"
  began=$(now)
  for n in $NODES; do
    : > "$WORK/pub-$n"
    to="$to $n=$(sed -n 's/^listen: .*:\([0-9]*\).*/\1/p' "$RING/$n/config.yaml")=$RING/$n/api.token"
  done
  "$TOOL" publish "$tag" "$each" "${PUBLISH:-20}" "$WORK" $to 2> "$WORK/refused.txt" &
  pid=$!
  for kill in 1 2; do
    via=$(other)
    await 120000 "$((kill * 2)) of 5 events before kill $kill" past $((events * (2 * kill - 1) / 5)) $pid
    victim=$(coordinator "$via")
    via=$(other "$victim" n4 n5) boot=$(boot_of "$victim" "$(other "$victim")")
    kill_agent "$victim"
    [ "$(accepted)" -lt $((events * 9 / 10)) ] || fail "kill $kill came when $(accepted) of $events events were accepted: not in the middle"
    await 15000 'another coordinator among the publishers' coordinator_is_not "$victim"
    figure 'publishers: another coordinator, s' "$TOOK"
    start_agent "$victim"
    await 30000 "$victim a full member again among the publishers" full_member "$victim" "$boot" "$via"
  done
  wait $pid || fail "an event was not accepted: $(cat "$WORK/refused.txt")"
  figure 'publishers: all accepted, s' $(($(now) - began))
  first=
  for n in $NODES; do
    await 60000 "all accepted events on $n" arrived "$n" "$tag" "$events"
    awk -v n="$n" '{ if ($3 != ++last[$2]) { print "at seq " $1 " number " $3 " of " $2 " instead of " last[$2]; exit 1 } }' "$WORK/arrived-$n" > "$WORK/order" ||
      fail "$n: twice, missing or out of order: $(cat "$WORK/order")"
    [ "$(wc -l < "$WORK/arrived-$n")" -eq "$events" ] || fail "$n has $(wc -l < "$WORK/arrived-$n") of $events events"
    [ -n "$first" ] || first=$n
    cmp -s "$WORK/arrived-$first" "$WORK/arrived-$n" || fail "$first and $n have them at different seqs: diff $WORK/arrived-$first $WORK/arrived-$n"
    awk -v n="$n" '$2 == n { print $3, $4 }' "$WORK/arrived-$first" | cmp -s - "$WORK/pub-$n" || fail "the ids that $n acknowledged are not those in the log"
  done
  figure 'publishers: the same everywhere, s' $(($(now) - began))
  sound "$(other)"
}

accepted() { cat "$WORK"/pub-n? | wc -l; }

# past N PID: so many events are accepted; or the publishers have ended, which the caller finds out soon enough.
past() { [ "$(accepted)" -ge "$1" ] || ! kill -0 "$2" 2>/dev/null; }

# played NODE LOG sums the games of the node's finished items; packed NODE LOG those in packs of its that others hold. Packs that have
# been joined are in no list any more: those that were safe are in the log, and the others noted in time.
played() { grep '"type":"SELFPLAY_COMPLETE"' "$2" | cols node games | awk -v n="$1" '$1 == n { s += $2 } END { print s + 0 }'; }
packed() {
  grep '"type":"NEW_GAMES_AVAILABLE"' "$2" | cols node pack_sha256 new_games | awk -v n="$1" '$1 == n { print $2, $3 }' |
    sort -u - "$WORK/packs-of" | awk '{ s += $2 } END { print s + 0 }'
}

# note_packs NODE-NAME VIA notes the node's packs that others hold.
note_packs() {
  ra "$2" data ls --kind games --json | rows | cols origin holders sha256 games |
    awk -v n="$1" '$1 == n { h = $2; gsub(n, "", h); gsub(/[-,]/, "", h); if (h != "") print $3, $4 }' >> "$WORK/packs-of"
}

# in_database N: a core node's merged database really has N games, and each can be read.
in_database() { [ "$("$TOOL" count "$RING/n1/games/$CONFIG.db")" -ge "$1" ]; }

# read_back N: the packs that there were before the loss hold N games or more, and all of them are in a merged database.
read_back() {
  local n stores=
  for n in $NODES; do [ ! -d "$RING/$n" ] || stores="$stores $RING/$n"; done
  [ "$("$TOOL" readback "$WORK/packs" "$RING/n1/games/$CONFIG.db" $stores 2> "$WORK/readback.txt")" -ge "$1" ]
}

# at_most N: of the games that the dead node had finished so many are missing.
at_most() {
  MISSING=$("$TOOL" missing "$WORK/finished" "$RING/n1/games/$CONFIG.db") && [ "$MISSING" -le "$1" ]
}

# gone ID LOG: the ring has said so.
gone() { log_of "$1" | grep '"type":"P2P_NODE_DEAD"' | grep -qF "$2"; }

# Show line 5. Rounds take n4 and n5 in turn; the machine is gone, so its jobs die with it. What it had finished when it was
# asked it must have shown; what it finished after that question is counted in its own files before they go.
scenario_edge() {
  local victim=n$((4 + $1 % 2)) via=n2 id asked unsynced counted before after pid missed until
  [ -d "$RING/$victim" ] || return 0
  await 20000 "a known count of $victim's unsynced games" known_unsynced "$victim" "$victim"
  id=$(ra "$via" members --json | rows | cols name id | awk -v n="$victim" '$1 == n { print $2 }')
  await 60000 "$victim at play" playing "$victim"
  before=$(games "$via")
  ra "$via" data ls --kind games --json | rows | cols sha256 > "$WORK/packs"
  : > "$WORK/packs-of"
  note_packs "$victim" "$via"
  asked=$(now)
  unsynced=$(ra "$victim" members --json | rows | cols name unsynced_games | awk -v n="$victim" '$1 == n { print $2 }')
  kill_agent "$victim"
  # Without a slash: what has just been forked still bears the agent's own command line.
  while pid=$(ring_processes "$victim" | cut -d' ' -f1) && [ -n "$pid" ]; do kill -9 $pid 2>/dev/null; done
  case $unsynced in '' | *[!0-9]*) fail "$victim shows $unsynced unsynced games" ;; esac
  after=$("$TOOL" finished "$RING/$victim" "$asked" "$WORK/finished") || fail "the games of $victim cannot be read"
  say "  edge: kill -9 of $victim with $unsynced unsynced games and $after finished since, $before games in the ring; its directory deleted"
  rm -rf "${RING:?}/$victim"
  [ ! -e "$RING/$victim" ] || fail "$victim is being written to"
  counted=$before until=$(($(now) + 60000))
  while ! gone "$via" "$id"; do
    [ "$(now)" -lt $until ] || fail "nobody has said that $victim is dead"
    counted=$(not_fewer "$counted" "$victim" "$via") || exit 1
    sleep 0.2
  done
  until=$(($(now) + 5000)) # what the ring does about the loss it does within this time
  while [ "$(now)" -lt $until ]; do
    counted=$(not_fewer "$counted" "$victim" "$via") || exit 1
    sleep 0.2
  done
  note_packs "$victim" "$via"
  count 'edge: games counted before, and never less' "$before"
  await 60000 "all $counted counted games in n1's database" in_database "$counted"
  await 60000 "every pack of before read back: $(cat "$WORK/readback.txt" 2>/dev/null)" read_back "$before"
  figure 'edge: every counted game read back, s' "$TOOK"
  count 'edge: unsynced games shown before' "$unsynced"
  count 'edge: games finished after the question' "$after"
  await 30000 "no more than $unsynced + $after of the games that $victim had finished are missing" at_most $((unsynced + after))
  count 'edge: games missing' "$MISSING"
  log_of "$via" > "$WORK/log"
  [ "$(grep -F '"type":"P2P_NODE_DEAD"' "$WORK/log" | grep -cF "\"$id\"")" -eq 1 ] || fail "$victim was not declared dead exactly once"
  note_packs "$victim" "$via"
  missed=$(($(played "$id" "$WORK/log") - $(packed "$id" "$WORK/log")))
  [ $missed -le $((unsynced + after)) ] || fail "$missed games of $victim's finished items are in no pack, but only $unsynced + $after were unsynced"
  sound "$via"
}

# not_fewer N GONE VIA prints how many games are counted, which is N or more.
not_fewer() {
  local n
  n=$(games "$3")
  [ "${n:-0}" -ge "$1" ] || fail "games fell from $1 to $n after $2 was lost"
  echo "$n"
}

known_unsynced() { ra "$2" members --json | rows | cols name unsynced_games | grep -q "^$1 [0-9]"; }
playing() { ring_processes "$1/" | grep -q ' selfplay '; }

# Show line 1: what make demo has no time for.
scenario_strength() {
  local last first v sha control
  say 'strength: a ring of its own until the first champion has been followed by five'
  ring_start strength 20m
  await 900000 'six champions' promoted 6 n1
  figure 'strength: six champions, s' $(($(now) - STARTED))
  ra n1 models --history --json | rows | cols version sha256 elo > "$WORK/champions"
  read -r v sha _ < "$WORK/champions"
  cp "$(blob n1 "$sha")" "$WORK/first.c4net" || fail "n1 has no bytes of version $v"
  read -r v sha _ <<< "$(tail -n 1 "$WORK/champions")"
  await 30000 "the bytes of version $v on n1" [ -f "$(blob n1 "$sha")" ]
  cp "$(blob n1 "$sha")" "$WORK/last.c4net" || fail "n1 has no bytes of version $v"
  sound n1
  holds 'the ring stops and leaves no process behind' ring_stop
  say "  version $v, ${sha:0:12}, against the baselines: 200 games each, paired openings"
  match control --untrained
  match first --model "$WORK/first.c4net"
  match last --model "$WORK/last.c4net"
  match against --model "$WORK/last.c4net" --opponents untrained
  match alone --model "$WORK/last.c4net" --simulations 0 --opponents random
  last=$(points last heuristic) control=$(points control heuristic)
  promise 'last champion against random, %' "$(points last random)" 90
  promise 'last champion against heuristic, %' "$last" 65
  promise '  points more than the untrained control' "$(awk -v a="$last" -v b="$control" 'BEGIN { printf "%.1f", a - b }')" 15
  promise 'last champion against the untrained control, %' "$(points against untrained)" 80
  promise 'its network alone against random, %' "$(points alone random)" 85
  promise 'rating: from the untrained network to the last champion' $(($(rated last) - $(rated control))) 200
  promise 'rating: from the first champion to the sixth' $(($(rated last) - $(rated first))) 200
}

match() { "$BIN" workload connect4 evaluate --seed 99 --min-games 200 --max-games 200 --out "$WORK/matches-$1.jsonl" "${@:2}" > "$WORK/$1.txt" || fail "evaluate $1"; }
points() { awk -v o="opponent=$2" '$1 == o { sub("score=", "", $6); printf "%.1f", 100 * $6 }' "$WORK/$1.txt"; }
rated() { sed -n 's/^EVALUATION_SUMMARY: .* elo=\(-\{0,1\}[0-9][0-9]*\) .*/\1/p' "$WORK/$1.txt"; }

promise() {
  case $2 in '' | *[!0-9.-]*) fail "$1: \"$2\" is no number" ;; esac
  say "$(printf '  %-56s %7s  at least %s' "$1" "$2" "$3")"
  awk -v x="$2" -v y="$3" 'BEGIN { exit !(x >= y) }' || fail "$1: $2, not at least $3"
}
