// Package workload reads the file that tells the agent how to play, export, train and evaluate: one YAML document with,
// per stage, an argument vector (never a shell line), an environment, the slots it takes, its deadlines, how its progress
// is recognised and what it has to leave behind.
//
// # The file
//
//	version: 1                      # the only version there is
//	name: connect4                  # letters, digits, '-', '_'
//	configs: [connect4_2p]          # what can be trained, <board>_<n>p
//	stages:                         # any of selfplay, export, train, evaluate
//	  selfplay:
//	    argv: ["{self}", workload, connect4, selfplay, --games, "{games}", --model, "{model}", --out, "{out}/games.db"]
//	    env: {LOG: quiet}           # added to a small allow-list of the agent's own environment
//	    dir: /opt/game              # working directory, absolute; the job's output directory when absent
//	    needs: {cpu: 1, gpu: 0, vram_mib: 0, ram_mib: 256, disk_mib: 64}   # cpu is 1 when absent, the others 0
//	    timeout: 10m                # whole run, required, at most 7 days
//	    no_progress: 60s            # longest time without a larger progress value; needs progress
//	    grace: 5s                   # between TERM and KILL, 10s when absent
//	    progress: 'games=(?P<games>\d+)'   # RE2; the first named group is the number that has to grow
//	    outputs: [{path: games.db, kind: games, min: {games: 1}}]
//
// Outputs name files inside the job's output directory ({out}). Their kinds and the counters that a validator of that
// kind reports: games (games), dataset (samples), model (bytes), matches (games), file (bytes). min asks for more than
// the default, which is at least 1 of the counter in brackets. An output with optional: true may be missing, but one that
// is there has to be good. A stage needs an output of what it is for that is not optional, and asks for one of it at least
// (games, samples); only of workloads that a ring has taken already is that not demanded again (ParseStored).
//
// Placeholders are a closed list:
//
//	{self}         path of the agent's own binary
//	{out}          the job's output directory, fresh and empty
//	{config}       connect4_2p        {board} connect4        {players} 2
//	{games}        selfplay and evaluate: how many games; export: path of the merged games database
//	{seed} {simulations} {epochs}     whole numbers
//	{model}        path of the model to play with, to start from, or to measure
//	{dataset}      path of the training set
//	{champion}     path of the current champion, for evaluate
//	{opponents}    comma-separated names of baselines
//
// An argument with a placeholder whose value does not exist (there is no champion yet) is dropped, together with the
// argument before it if that is a flag ("--champion"); so is an environment variable. {self}, {out}, {config}, {board}
// and {players} always exist. A brace that does not enclose a bare word stands for itself.
//
// # The package
//
// It owns this format and its rendering into an argv, and must not know queues, processes or artifacts. The agent,
// `ringagent validate` and the worker call it. A parsed Workload is immutable and safe for concurrent use.
package workload
