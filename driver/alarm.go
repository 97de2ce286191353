package driver

// The codes of alarms. docs/errors.md is made from these comments: each names what
// the alarm is about, says what has happened and what it means, and the remedy.
const (
	// AlarmBacklog, of a group and a topic: the group is new to the topic and begins
	// with events that were published before; their number is told. It is told once
	// and does not stand. Remedy: none, if that is meant; to begin with what comes
	// next, give a new group GroupConfig.Start: posthorn.FromNow(), or set this one
	// there with posthorn groups reset --to now.
	AlarmBacklog = "backlog"
	// AlarmBrokerAway, of a server: there is no connection to it; nothing is published
	// or handled until there is one, and nothing is lost. Remedy: see to the server
	// and the network; the connection is tried again and again by itself, unless the
	// text asks for a restart.
	AlarmBrokerAway = "broker_away"
	// AlarmBrokerUnavailable, of a bus: the broker did not answer just now, when
	// Health asked it. Remedy: see to the broker; the text says what it did instead of
	// answering.
	AlarmBrokerUnavailable = "broker_unavailable"
	// AlarmCheckpointFailed, of a group and a partition: how far the group is cannot
	// be recorded. Handlers go on until the window is full; a kill repeats what was
	// handled since. Remedy: see to the broker; it is tried again by itself.
	AlarmCheckpointFailed = "checkpoint_failed"
	// AlarmDelayFailed, of a topic: events that were published for later cannot be
	// published now that they are due; they are kept, and come late. Remedy: what the
	// text says: a full topic wants room, an event that the broker refuses for what it
	// is can be cancelled; it is tried again by itself.
	AlarmDelayFailed = "delay_failed"
	// AlarmDiskFull, of a store's directory: the disk is full, and nothing is stored.
	// Remedy: make room; it goes on by itself.
	AlarmDiskFull = "disk_full"
	// AlarmFetchFailed, of a group and a partition: messages cannot be fetched, and
	// none of the partition are handled. Remedy: see to the broker; it is tried again
	// by itself.
	AlarmFetchFailed = "fetch_failed"
	// AlarmForeignFlood, of a group: twenty messages in a row could not be read, and
	// the group has paused itself, lest the dead letters fill with them. Remedy: find
	// out who publishes them, or update this service if it is older than the events;
	// then posthorn groups resume.
	AlarmForeignFlood = "foreign_flood"
	// AlarmGroupEnded, of a group: this process is no member of the group any more
	// and handles nothing of it. Remedy: mend what the text says, and restart the
	// process.
	AlarmGroupEnded = "group_ended"
	// AlarmGroupPaused, of a group: somebody has paused it; no handler starts.
	// Remedy: posthorn groups resume, when the reason that the text tells has gone.
	AlarmGroupPaused = "group_paused"
	// AlarmHandlerMissing, of a group and a topic: the group is subscribed to event
	// types that this program has no handler for, so it takes nothing of the topic;
	// other members do. Remedy: add the handler, or end the subscription with
	// posthorn groups unsubscribe. During a rolling deploy it passes by itself.
	AlarmHandlerMissing = "handler_missing"
	// AlarmHandlerStuck, of a group and an event type: a handler has not returned
	// though its context ended. Its key waits, its slot is given to others. Remedy: have
	// the handler heed its context; a restart frees the key.
	AlarmHandlerStuck = "handler_stuck"
	// AlarmLaneFailed, of a group and a partition: the store of late retries and dead
	// letters cannot be read or written; what has to go there keeps its place.
	// Remedy: see to the broker; it is tried again by itself.
	AlarmLaneFailed = "lane_failed"
	// AlarmMessagesMissing, of a stream: messages have gone that Posthorn has not
	// deleted, by damage or by somebody's hand; groups pass over them. Remedy: restore
	// the store from a copy if they matter, and find out who deletes.
	AlarmMessagesMissing = "messages_missing"
	// AlarmPositionAhead, of a group: it has handled events that the store does not
	// have: the store is an older copy. The group goes on at the end of what there is.
	// Remedy: publish again what the copy lacks.
	AlarmPositionAhead = "position_ahead"
	// AlarmPositionMissing, of a group: the record of where it is in a partition is
	// gone; it starts with the first event that is kept, and handles again what it had
	// handled. Remedy: none, where handlers can be repeated; else posthorn groups reset,
	// before a member takes the partition.
	AlarmPositionMissing = "position_missing"
	// AlarmQuarantined, of a group and an event: the event was being handled each time
	// its process died; it is a dead letter now. Remedy: find out in the dead letter
	// and the process's last words why it kills.
	AlarmQuarantined = "quarantined"
	// AlarmRecordFailed, of a group and a partition: the group's record cannot be
	// read, after its subscription has grown; what is handled is not recorded until
	// then. Remedy: see to the broker; it is tried again by itself.
	AlarmRecordFailed = "record_failed"
	// AlarmReplicasMissing, of a stream: it has fewer replicas than are declared, so
	// that fewer servers may fail than was planned for. Remedy: give it as many, with
	// the command in the text.
	AlarmReplicasMissing = "replicas_missing"
	// AlarmServerTooOld, of a server: it was replaced by one of a version that lacks
	// what is needed; nothing is published or handled. Remedy: update the server.
	AlarmServerTooOld = "server_too_old"
	// AlarmStoreChanged, of a server: it holds another store than the one that was
	// opened: two clusters were taken for one, or the store was deleted. Nothing is
	// published or handled, so that nothing gets mixed. Remedy: see to the servers in
	// the URL, or restore the store; to go on with what is there now, restart.
	AlarmStoreChanged = "store_changed"
	// AlarmStreamChanged, of a stream: somebody has changed its settings, or it is
	// another program's; events may go that a group has not handled. Remedy: set them
	// back, as the text says.
	AlarmStreamChanged = "stream_changed"
	// AlarmStreamMissing, of a stream: it is gone, and nothing goes on that needs it.
	// Remedy: restore it from a copy; a service that is started without that makes it
	// anew, empty, and says so.
	AlarmStreamMissing = "stream_missing"
	// AlarmStreamReplaced, of a stream: it was deleted and made anew; what it held and
	// a group had not handled is lost. The group starts with the first event that is
	// kept. Remedy: restore what is lost from a copy, if there is one, and find out who
	// deletes.
	AlarmStreamReplaced = "stream_replaced"
	// AlarmSyncFailed, of a store: a sync to disk failed. Nothing is confirmed any
	// more, since what was confirmed might be lost. Remedy: find out what ails the disk,
	// then restart the process that holds the store.
	AlarmSyncFailed = "sync_failed"
	// AlarmTopicMissing, of a topic: its record is gone, and its streams stand. Remedy:
	// declare it with as many partitions as it has, or restore the record from a copy.
	AlarmTopicMissing = "topic_missing"
)
