// Package deadletter mends what failed: it lists the dead letters of groups, and
// replays, edits, discards and exports them. The command "posthorn dead" does the same.
//
//	q := deadletter.Query{Groups: []string{"billing"}, Types: []string{"order.*"}, Reasons: []posthorn.Code{posthorn.CodeTimeout}}
//	for letter, err := range deadletter.List(ctx, bus, q) {
//		...
//	}
//	report, err := deadletter.Replay(ctx, bus, q, deadletter.Job{By: "anna", Rate: 50, Canary: 3})
//
// A dead letter is replayed to the group that gave up on it and to no other, with all
// its attempts before it again, and with its id, key, trace and headers as they were.
// It is handled behind what the group has in memory for its key, never beside another
// of its key; several of one key come in the order they were stored in.
//
// All that is done is safe to repeat, to interrupt and to do from two places at once:
// each dead letter is compared before it is changed, and one that is none any more is
// passed over and counted. [Log] tells who did what, and when.
package deadletter
