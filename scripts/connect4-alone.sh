#!/usr/bin/env bash
# Connect Four by itself, without a ring: plays, exports, trains and measures for five generations with the same commands
# that an agent would run, then prints what came of it, beside the untrained control.
#
#   scripts/connect4-alone.sh [DIR]        DIR keeps the files; a temporary one is removed at the end
#
# RINGAGENT names a built binary (otherwise it is built), GENERATIONS, GAMES, EPOCHS and SEED change the run. Exits 1 if a
# figure is below what is promised.
set -euo pipefail
cd "$(dirname "$0")/.."

generations=${GENERATIONS:-5} games=${GAMES:-400} epochs=${EPOCHS:-6} seed=${SEED:-1}
export GOMAXPROCS=${GOMAXPROCS:-1}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
dir=${1:-$scratch/run}
mkdir -p "$dir"
if [ -e "$dir/games.db" ]; then
  echo "$dir holds the games of another run" >&2
  exit 8
fi

if [ -z "${RINGAGENT:-}" ]; then
  RINGAGENT=$scratch/ringagent
  GOMAXPROCS='' go build -o "$RINGAGENT" ./cmd/ringagent
fi
c4() { "$RINGAGENT" workload connect4 "$@"; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }
# score FILE OPPONENT: the share of points in an evaluation's output, in percent; elo FILE: its rating.
score() { awk -v o="opponent=$2" '$1 == o { sub("score=", "", $6); printf "%.1f", 100 * $6 }' "$1"; }
elo() { sed -n 's/^EVALUATION_SUMMARY: .* elo=\(-\{0,1\}[0-9]*\) .*/\1/p' "$1"; }
fixed() { c4 evaluate --seed 99 --min-games 200 --max-games 200 --out "$dir/matches-$1.jsonl" "${@:2}" > "$dir/$1.txt"; }

fixed control --untrained
printf '%-4s %9s %9s %9s %8s %8s %10s %10s %7s\n' GEN GAMES/S SAMPLES TRAIN_S TOTAL_S RANDOM HEURISTIC MINIMAX ELO
printf '%-4s %9s %9s %9s %8s %8s %10s %10s %7s\n' 0 - - - - "$(score "$dir/control.txt" random)" \
  "$(score "$dir/control.txt" heuristic)" "$(score "$dir/control.txt" minimax)" "$(elo "$dir/control.txt")"

model=() first=
for g in $(seq "$generations"); do
  start=$(now)
  c4 selfplay --games "$games" --seed $((seed * 1000 + g)) --out "$dir/games.db" "${model[@]}" > "$dir/selfplay-$g.txt"
  played=$(since "$start")
  c4 export --games "$dir/games.db" --max-games $((4 * games)) --out "$dir/dataset-$g.npz" > "$dir/export-$g.txt"
  train=$(now)
  c4 train --dataset "$dir/dataset-$g.npz" --epochs "$epochs" --seed "$seed" --out "$dir/model-$g.c4net" "${model[@]}" > "$dir/train-$g.txt"
  trained=$(since "$train")
  if [ "$g" -gt 1 ]; then champion=(--champion "$dir/model-$((g - 1)).c4net"); else champion=(); fi
  model=(--model "$dir/model-$g.c4net")
  c4 evaluate "${model[@]}" "${champion[@]}" --seed "$g" --out "$dir/loop-$g.jsonl" > "$dir/loop-$g.txt"
  total=$(since "$start")
  # What is printed is measured outside of the loop, at a fixed number of games and from the same openings each time.
  fixed "fixed-$g" "${model[@]}"
  first=${first:-$(elo "$dir/fixed-$g.txt")}
  samples=$(sed -n 's/^EXPORT_SUMMARY: samples=\([0-9]*\).*/\1/p' "$dir/export-$g.txt")
  printf '%-4s %9s %9s %9s %8s %8s %10s %10s %7s\n' "$g" "$(awk -v n="$games" -v s="$played" 'BEGIN { printf "%.0f", n / s }')" "$samples" \
    "$trained" "$total" "$(score "$dir/fixed-$g.txt" random)" "$(score "$dir/fixed-$g.txt" heuristic)" \
    "$(score "$dir/fixed-$g.txt" minimax)" "$(elo "$dir/fixed-$g.txt")"
done

last=$dir/fixed-$generations.txt
fixed against-control "${model[@]}" --opponents untrained
fixed alone "${model[@]}" --simulations 0 --opponents random,heuristic

bad=0
# promise WHAT FIGURE LEAST
promise() {
  verdict=ok
  awk -v x="$2" -v y="$3" 'BEGIN { exit !(x >= y) }' || { verdict=BELOW bad=1; }
  printf '%-58s %7s  at least %-5s %s\n' "$1" "$2" "$3" "$verdict"
}
echo
promise "last against random, %" "$(score "$last" random)" 90
promise "last against heuristic, %" "$(score "$last" heuristic)" 65
promise "  points more than the untrained control" \
  "$(awk -v a="$(score "$last" heuristic)" -v b="$(score "$dir/control.txt" heuristic)" 'BEGIN { printf "%.1f", a - b }')" 15
promise "last against the untrained control, %" "$(score "$dir/against-control.txt" untrained)" 80
promise "network alone against random, %" "$(score "$dir/alone.txt" random)" 85
promise "rating from the first to the last generation" $(($(elo "$last") - first)) 200
echo "(network alone against heuristic: $(score "$dir/alone.txt" heuristic) %; rating from the untrained control to the last: +$(($(elo "$last") - $(elo "$dir/control.txt"))))"
exit $bad
