package demo

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/logistics"
	"github.com/posthorn/posthorn/examples/shop/notification"
	"github.com/posthorn/posthorn/examples/shop/payment"
	"github.com/posthorn/posthorn/examples/shop/recommendation"
)

// The poison is an order that an old till has published past the order service, with
// a quantity in words. Nobody will ever be able to read it: each group that handles
// orders makes a dead letter of it, and goes on. (An event that kills its process ends
// in the same place. It is not in the demo because it takes three deaths, each of
// which has to be noticed by the broker; the library's own tests do it.)
const poisonID = "0131be78-99c0-7de5-914b-0000deadbeef"

const poison = `{"order_id": "POISON", "at": "2011-08-12T14:50:00Z", "lines": [{"stock_code": "85123A", "quantity": "six", "unit_price": "2.55"}]}`

// poisoned are the groups that get it.
var poisoned = []string{payment.Group, logistics.Group, recommendation.Group, notification.Group}

func publishPoison(ctx context.Context, bus *posthorn.Bus) error {
	till := posthorn.Define[json.RawMessage](contract.OrderPlaced.Name(), posthorn.In(contract.OrderPlaced.Topic()),
		posthorn.Key(func(json.RawMessage) string { return "POISON" }))
	if err := till.Publish(ctx, bus, json.RawMessage(poison), posthorn.WithID(poisonID)); err != nil {
		return fmt.Errorf("publish the poison order: %w", err)
	}
	return nil
}
