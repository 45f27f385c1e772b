package event

// The types of events. Each variable makes and reads the payload of its type; they are never assigned again. What an owner
// list names is who may state a fact.
var (
	// Games.

	SelfplayComplete = define[SelfplayDone](fact("SELFPLAY_COMPLETE",
		"A self-play item is finished: its games are complete and validated."))
	NewGamesAvailable = define[NewGames](hint("NEW_GAMES_AVAILABLE",
		"A node has finished games that are gathered in a pack.",
		"EPHEMERAL_SYNC", "AUTO_SYNC").wire("new_games"), "host=node_id")
	DataSyncCompleted = define[SyncDone](hint("DATA_SYNC_COMPLETED",
		"Games have reached their copies, with receipts.",
		"EPHEMERAL_SYNC", "AUTO_SYNC").wire("sync_completed", "sync_complete"), "source=node_id")
	DataSyncFailed = define[SyncFailed](hint("DATA_SYNC_FAILED",
		"Games could not be brought to a target; they stay where they are and are tried again.",
		"EPHEMERAL_SYNC", "AUTO_SYNC").wire("sync_failed"), "host=target")

	// Export and distribution.

	NPZExportStarted = define[ExportStarted](by("NPZ_EXPORT_STARTED",
		"An export has been asked for.", "AUTO_EXPORT"))
	NPZExportComplete = define[ExportDone](fact("NPZ_EXPORT_COMPLETE",
		"A dataset is made and validated."))
	ExportValidationFailed = define[ExportInvalid](by("EXPORT_VALIDATION_FAILED",
		"An export ended without a dataset that may be used.", "AUTO_EXPORT"))
	NPZDistributionStarted = define[Distribution](by("NPZ_DISTRIBUTION_STARTED",
		"A dataset is being brought to the nodes that train.", "NPZ_DISTRIBUTION"))
	NPZDistributionComplete = define[Distribution](by("NPZ_DISTRIBUTION_COMPLETE",
		"Every live node that needs the dataset has said that it holds it.", "NPZ_DISTRIBUTION"))
	NPZDistributionFailed = define[Distribution](by("NPZ_DISTRIBUTION_FAILED",
		"Some nodes could not be given the dataset in time; they are tried again.", "NPZ_DISTRIBUTION"))
	ModelDistributionStarted = define[Distribution](by("MODEL_DISTRIBUTION_STARTED",
		"A model is being brought to the nodes that play.", "MODEL_DISTRIBUTION"))
	ModelDistributionComplete = define[Distribution](by("MODEL_DISTRIBUTION_COMPLETE",
		"Every live node that needs the model has said that it holds it.", "MODEL_DISTRIBUTION"))
	ModelDistributionFailed = define[Distribution](by("MODEL_DISTRIBUTION_FAILED",
		"Some nodes could not be given the model in time; they are tried again.", "MODEL_DISTRIBUTION"))

	// Training.

	TrainingStarted = define[TrainingStart](fact("TRAINING_STARTED",
		"A training run has really started."))
	TrainingCompleted = define[TrainingDone](fact("TRAINING_COMPLETED",
		"A training run has left a model, which is now a candidate.").wire("training_completed", "training_complete"))
	TrainingFailed = define[RunFailed](fact("TRAINING_FAILED",
		"A training run ended without a model."))
	TrainingBlocked = define[Blocked](by("TRAINING_BLOCKED",
		"A config is not trained yet; names the condition that does not hold.", "TRAINING_TRIGGER"))

	// Evaluation and promotion.

	EvaluationRequested = define[EvaluationWanted](hint("EVALUATION_REQUESTED",
		"A candidate is to be measured.", "EVALUATION"))
	EvaluationCompleted = define[EvaluationDone](fact("EVALUATION_COMPLETED",
		"A candidate has been measured; its matches are stored.").wire("evaluation_completed", "evaluation_complete"))
	EvaluationFailed = define[RunFailed](core("EVALUATION_FAILED",
		"An evaluation ended without matches that count.", ByState, "EVALUATION"))
	EvaluationBackpressure = define[Pressure](by("EVALUATION_BACKPRESSURE",
		"More candidates wait than can be measured; training pauses.", "EVALUATION"))
	EvaluationBackpressureReleased = define[Pressure](by("EVALUATION_BACKPRESSURE_RELEASED",
		"Training may go on.", "EVALUATION"))
	EloUpdated = define[Rating](fact("ELO_UPDATED",
		"A model's rating has changed because matches were added."))
	ModelPromoted = define[Promotion](fact("MODEL_PROMOTED",
		"A config has a new champion: the name model/<config> was moved by compare-and-set."))
	PromotionRejected = define[Rejection](by("PROMOTION_REJECTED",
		"A candidate did not pass a gate.", "AUTO_PROMOTION"))

	// Plans and work.

	SelfplayAllocationUpdated = define[Allocation](by("SELFPLAY_ALLOCATION_UPDATED",
		"A new plan of who plays how many games of what.", "SELFPLAY_COORDINATOR"))
	WorkQueued    = define[Work](fact("WORK_QUEUED", "An item was added to the queue."))
	WorkClaimed   = define[Work](fact("WORK_CLAIMED", "A node has the lease on an item."))
	WorkStarted   = define[Work](fact("WORK_STARTED", "The run of a claimed item has really started; this counts as an attempt."))
	WorkCompleted = define[Work](fact("WORK_COMPLETED", "An item is done and its outputs are validated."))
	WorkFailed    = define[Work](fact("WORK_FAILED", "An attempt failed, or an item will not be tried again."))
	WorkRetry     = define[Work](fact("WORK_RETRY", "An item is back in the queue."))
	WorkTimeout   = define[Work](fact("WORK_TIMEOUT", "A claim ran out or a run passed its deadline."))
	WorkCancelled = define[Work](fact("WORK_CANCELLED", "An item was taken back."))

	WorkDeadLettered = define[Work](fact("WORK_DEAD_LETTERED", "An item has used its attempts up."))

	WorkQueueBackpressure = define[QueueDepth](by("WORK_QUEUE_BACKPRESSURE",
		"The queue is as full as it may be.", "QUEUE_POPULATOR"))
	WorkQueueBackpressureReleased = define[QueueDepth](by("WORK_QUEUE_BACKPRESSURE_RELEASED",
		"The queue takes items again.", "QUEUE_POPULATOR"))
	WorkQueueExhausted = define[QueueDepth](by("WORK_QUEUE_EXHAUSTED",
		"Nodes are free and nothing is queued.", "QUEUE_POPULATOR"))
	PipelineStageOverdue = define[StageOverdue](by("PIPELINE_STAGE_OVERDUE",
		"A stage of the loop has passed its deadline and is asked for again.", "DATA_PIPELINE"))

	// Nodes.

	P2PNodeDead = define[Host](fact("P2P_NODE_DEAD",
		"The coordinator holds a node for dead, once per boot."), "dead_node=node_id")
	HostOnline          = define[Host](fact("HOST_ONLINE", "A node is there, once per boot."), "host=node_id")
	HostOffline         = define[Host](fact("HOST_OFFLINE", "A node has left or is gone, once per boot."), "host=node_id")
	NodeRevoked         = define[Expulsion](fact("NODE_REVOKED", "A node is shut out for good."))
	P2PClusterHealthy   = define[Cluster](fact("P2P_CLUSTER_HEALTHY", "Enough nodes are there again."))
	P2PClusterUnhealthy = define[Cluster](fact("P2P_CLUSTER_UNHEALTHY", "Too few nodes are there."))
	LeaderElected       = define[Election](fact("LEADER_ELECTED",
		"A coordinator has taken office; node_id is the coordinator."), "leader_id=node_id")
	ConfigUpdated = define[SettingsChange](core("CONFIG_UPDATED", "The ring settings have changed.", ByState, ByAgent))
	NodeUnhealthy = define[NodeVerdict](by("NODE_UNHEALTHY",
		"A node's own monitor finds it unfit for work.", "NODE_HEALTH_MONITOR"))
	NodeRecovered = define[NodeVerdict](by("NODE_RECOVERED",
		"A node's own monitor finds it fit again.", "NODE_HEALTH_MONITOR"))
	NodeOverloaded = define[NodeVerdict](by("NODE_OVERLOADED",
		"A node has less to spare than its work needs.", "NODE_HEALTH_MONITOR"))

	// Daemons and the log itself.

	DaemonStatusChanged = define[DaemonStatus](by("DAEMON_STATUS_CHANGED",
		"A daemon of a node is in another state or makes no progress.", "DAEMON_WATCHDOG", ByAgent))
	DLQEventsReplayed = define[Replayed](by("DLQ_EVENTS_REPLAYED",
		"Dead letters were delivered after all.", "DLQ_RETRY"))
	DLQStaleEvents = define[StaleLetters](by("DLQ_STALE_EVENTS",
		"Dead letters wait for somebody to look at them.", "DLQ_RETRY"))
	EventRefused = define[Refusal](core("EVENT_REFUSED",
		"An event could not be accepted; its number is used up.", ByState))
	EventsLost = define[Loss](core("EVENTS_LOST",
		"An outbox can no longer supply a range of its numbers.", ByState))
	OperatorNote = define[Note](Definition{Type: "OPERATOR_NOTE", Source: SourceExternal,
		Doc: "Whatever an operator or a script wants to have on record. Anybody may publish it."})
)

// entries is the catalogue, in the order of this file.
func entries() []entry {
	return []entry{
		SelfplayComplete, NewGamesAvailable, DataSyncCompleted, DataSyncFailed,
		NPZExportStarted, NPZExportComplete, ExportValidationFailed,
		NPZDistributionStarted, NPZDistributionComplete, NPZDistributionFailed,
		ModelDistributionStarted, ModelDistributionComplete, ModelDistributionFailed,
		TrainingStarted, TrainingCompleted, TrainingFailed, TrainingBlocked,
		EvaluationRequested, EvaluationCompleted, EvaluationFailed,
		EvaluationBackpressure, EvaluationBackpressureReleased,
		EloUpdated, ModelPromoted, PromotionRejected,
		SelfplayAllocationUpdated,
		WorkQueued, WorkClaimed, WorkStarted, WorkCompleted, WorkFailed, WorkRetry, WorkTimeout, WorkCancelled,
		WorkDeadLettered, WorkQueueBackpressure, WorkQueueBackpressureReleased, WorkQueueExhausted, PipelineStageOverdue,
		P2PNodeDead, HostOnline, HostOffline, NodeRevoked, P2PClusterHealthy, P2PClusterUnhealthy, LeaderElected,
		ConfigUpdated, NodeUnhealthy, NodeRecovered, NodeOverloaded,
		DaemonStatusChanged, DLQEventsReplayed, DLQStaleEvents, EventRefused, EventsLost, OperatorNote,
	}
}

// fact is stated by the state machine alone, inside the entry of what it tells.
func fact(t Type, doc string) Definition { return core(t, doc, ByState) }

func core(t Type, doc string, owners ...Publisher) Definition {
	return Definition{Type: t, Doc: doc, Source: SourceCore, Fact: true, Owners: owners}
}

// by is a fact that only the daemons named state.
func by(t Type, doc string, owners ...Publisher) Definition {
	return Definition{Type: t, Doc: doc, Source: SourceDaemon, Fact: true, Owners: owners}
}

// hint is stated by the daemons named, and by other programs too: whoever reads it looks into the state before acting.
func hint(t Type, doc string, owners ...Publisher) Definition {
	return Definition{Type: t, Doc: doc, Source: SourceDaemon, Owners: owners}
}

func (d Definition) wire(name string, aliases ...string) Definition {
	d.Wire, d.Aliases = name, aliases
	return d
}
