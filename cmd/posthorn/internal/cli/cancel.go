package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/posthorn/posthorn"
)

func (a *app) cancel() *cobra.Command {
	var topic string
	c := &cobra.Command{
		Use:   "cancel TYPE ID",
		Short: "Take back an event that was published with a delay",
		Long: `Take back an event that was published with a delay and is not due yet, by its type and
id. When nothing is waiting under the id, because it was published already or never
was there, the exit code is 3; "posthorn why ID" says where it stands.`,
		Example: "  posthorn cancel order.reminder reminder-4711",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.asking(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				done, err := typeIn(args[0], topic).Cancel(ctx, bus, args[1])
				if err != nil {
					return err
				}
				if !done {
					return &posthorn.Error{Code: posthorn.CodeNotFound, Text: fmt.Sprintf("no event of type %s waits under the id %s: it was published, was cancelled, or never was there", args[0], args[1])}
				}
				if a.json {
					return a.line(map[string]string{"id": args[1], "type": args[0], "done": "cancelled"})
				}
				a.say("cancelled %s %s", args[0], args[1])
				return nil
			})
		},
	}
	c.Flags().StringVar(&topic, "topic", "", "the topic, where the type's name says another")
	return c
}

// typeIn defines an event type whose data is JSON as it stands.
func typeIn(name, topic string) *posthorn.EventType[json.RawMessage] {
	if topic == "" {
		return posthorn.Define[json.RawMessage](name)
	}
	return posthorn.Define[json.RawMessage](name, posthorn.In(posthorn.DefineTopic(topic, posthorn.TopicConfig{})))
}
