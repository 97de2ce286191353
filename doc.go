// Package posthorn is a message bus for Go services: typed events, stored
// durably, handled at least once and in the order of their keys.
//
// An event type is declared once, in a package that every service concerned
// imports:
//
//	type Placed struct {
//		OrderID string `json:"order_id"`
//	}
//
//	var OrderPlaced = posthorn.Define[Placed]("order.placed",
//		posthorn.Key(func(p Placed) string { return p.OrderID }))
//
// A [Bus] is opened by URL; the driver's package is imported for its effect:
//
//	import _ "github.com/posthorn/posthorn/driver/embedded"
//
//	bus, err := posthorn.Open(ctx, "embedded:./data", posthorn.Service("inventory"))
//	defer bus.Close(context.Background())
//
// Publishing returns nil when the event is held as durably as the broker can be
// told to. Otherwise the [*PublishError] says what became of it: stored, not
// stored, or unknown, and then publishing the same again is safe:
//
//	err = OrderPlaced.Publish(ctx, bus, placed)
//	err = bus.PublishAll(ctx, OrderPlaced.New(a), StockShort.New(b))
//
// [EventType.PublishAsync] does not wait, and returns a [Pending] that tells. With
// [After] and [At] an event is published later. [PublishThrough] sets middleware.
//
// A [Group] is a logical subscriber. Each event reaches each group that is
// registered for it, until one of the group's handlers has settled it:
//
//	inventory := bus.Group("inventory", posthorn.GroupConfig{Concurrency: 64})
//	OrderPlaced.Handle(inventory, func(ctx context.Context, e *posthorn.Event[Placed]) error {
//		return reserve(ctx, e.Data)
//	}, posthorn.Timeout(5*time.Second))
//
//	err = bus.Run(ctx) // until ctx ends; then it drains
//
// A handler may get an event more than once, and has to bear that: see
// [Meta.IdempotencyKey]. [EventType.HandleBatch] handles several at a time.
//
// # The verdict
//
// The error that a handler returns decides. Nil settles the event. Any other
// error tries again: [Retry] attempts in memory, soon, while the event's key waits
// and its slot does not; then late ones through the broker, while nothing waits.
// What the budget does not save is a dead letter ([Bus.DeadLetters]). [Permanent],
// [RetryAfter] and [Skip] say more. A panic is an error with a stack, a handler
// that does not return at its deadline has failed.
//
// # Order
//
// Events of one key are handled one at a time, in the order they were stored in;
// different keys run in parallel, up to GroupConfig.Concurrency. A late retry
// comes late, but never beside another of its key.
//
// # From a handler
//
// Publishing with a handler's context gives the event an id that is derived from
// the event being handled: when the handler runs again it repeats ids, not
// events. The delivery settles only after what was published is confirmed. The
// correlation id, the trace and the headers named by [Propagate] travel on.
//
// # Operating
//
// [Bus.Provision] makes or checks topics and groups. [Bus.Topics], [Bus.Groups] and
// [Bus.GroupStatus] tell how they stand, [Bus.Why] where an event stands in each
// group, [Bus.Tail] shows events as they are stored. [Bus.Pause], [Bus.Resume],
// [Bus.Reset] and [Bus.Remove] change a group. The command posthorn does all of it
// from a shell: see docs/cli.md.
//
// # Errors and health
//
// Each error of this package has a [Code] from a closed set, by [CodeOf]. What a
// person must know of is an [Alarm]: a line in the log, a reason in [Bus.Health],
// a count in [Bus.Stats], and a call of the hook set by [OnAlarm].
//
// In the repository, docs/start.md is a tutorial of ten minutes, docs/guarantees.md
// says what is promised and how it is shown, docs/defaults.md lists every default,
// docs/wire.md what stands on the broker.
package posthorn
