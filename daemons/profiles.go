package daemons

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
)

// everywhere are the daemons of every node that does anything.
func everywhere() []string {
	return []string{"EVENT_ROUTER", "CROSS_PROCESS_POLLER", "DLQ_RETRY", "DAEMON_WATCHDOG", "HEALTH_SERVER", "P2P_BACKEND",
		"NODE_HEALTH_MONITOR", "HEALTH_CHECK"}
}

// singletons are those that the coordinator assigns; a node whose profile lacks one is not eligible for it.
func singletons() []string {
	var out []string
	for _, s := range All() {
		if s.Scope == kit.ScopeCluster {
			out = append(out, s.Name)
		}
	}
	return out
}

func profiles() map[string][]string {
	var full []string
	for _, s := range All() {
		full = append(full, s.Name)
	}
	return map[string][]string{
		"core":    slices.Concat(everywhere(), []string{"AUTO_SYNC", "SYNC_COORDINATOR"}, singletons()),
		"edge":    append(everywhere(), "EPHEMERAL_SYNC"),
		"gpu":     append(everywhere(), "AUTO_SYNC", "SYNC_COORDINATOR", "EPHEMERAL_SYNC"), // the class decides which sync runs
		"full":    full,
		"minimal": {"EVENT_ROUTER", "HEALTH_SERVER", "P2P_BACKEND"},
	}
}

// Profiles names the profiles, sorted.
func Profiles() []string { return slices.Sorted(maps.Keys(profiles())) }

// Profile returns the daemons that a profile chooses for a node of a class, in the order of All. An empty name means the
// class's own profile.
func Profile(name string, class id.Class) ([]kit.Spec, error) {
	if name == "" {
		name = string(class)
	}
	names, ok := profiles()[name]
	if !ok {
		return nil, fmt.Errorf("profile %q: want one of %v", name, Profiles())
	}
	var out []kit.Spec
	for _, s := range All() {
		if slices.Contains(names, s.Name) && (len(s.Classes) == 0 || slices.Contains(s.Classes, class)) {
			out = append(out, s)
		}
	}
	return out, nil
}

// DevOverlay is what a ring on one machine changes, as sections of the ring settings: smaller items and thresholds and
// periods of seconds, so that a generation takes less than a minute. It is the only place where these figures stand.
func DevOverlay() map[string]json.RawMessage {
	return map[string]json.RawMessage{
		"SELFPLAY_COORDINATOR": raw(`{"every":"10s","target_elo":0,"min_gap":"10s","fresh_for":"1m","stale_after":"5m"}`),
		"QUEUE_POPULATOR":      raw(`{"every":"2s","games":40,"simulations":48,"floor":10,"target":16,"per_cycle":16,"per_node":2}`),
		"AUTO_EXPORT":          raw(`{"every":"5s","games":200,"immediate":400,"few":200,"cooldown":"5s","window":4,"max_games":1600}`),
		"TRAINING_TRIGGER": raw(`{"every":"5s","samples":4000,"cooldown":"5s","epochs":0,"retry":"5s","pause":"1m",
			"candidate_wait":"60s"}`),
		"EVALUATION": raw(`{"every":"5s","simulations":48,"min_games":50,"max_games":50,"champion_games":100}`),
		"AUTO_PROMOTION": raw(`{"every":"5s","min_games":50,"champion_games":50,"champion":0.55,
			"first":{"2":{"random":0.75,"heuristic":0}},"floor":{"2":{"random":0.7,"heuristic":0.2}}}`),
		"NPZ_DISTRIBUTION":    raw(`{"every":"5s","retry":"2s"}`),
		"MODEL_DISTRIBUTION":  raw(`{"every":"5s","retry":"2s"}`),
		"AUTO_SYNC":           raw(`{"every":"5s","retry":"1s","batch":40,"join_after":"1m","join_packs":32}`),
		"EPHEMERAL_SYNC":      raw(`{"every":"5s","retry":"1s","batch":40}`),
		"NODE_HEALTH_MONITOR": raw(`{"every":"5s"}`),
		"DLQ_RETRY":           raw(`{"every":"10s","first":"10s"}`),
		"DAEMON_WATCHDOG":     raw(`{"every":"10s"}`),
		"DATA_PIPELINE": raw(`{"every":"5s","play":"60s","gather":"30s","export":"30s","train":"90s","evaluate":"90s","decide":"20s",
			"spread":"30s"}`),
	}
}

func raw(s string) json.RawMessage { return json.RawMessage(s) }
