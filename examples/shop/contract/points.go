package contract

import "github.com/posthorn/posthorn"

// Points were given to a customer, or taken back.
type Points struct {
	Customer string `json:"customer"`
	OrderID  string `json:"order_id"` // of the order, or of the cancellation
	Points   int64  `json:"points"`   // how many
	Balance  int64  `json:"balance"`  // after it; below zero when more came back than was ordered
}

func pointsKey(p Points) string { return p.Customer }

// The events of points.
var (
	PointsGiven = posthorn.Define[Points]("points.given", topic("points"), posthorn.Key(pointsKey))
	PointsTaken = posthorn.Define[Points]("points.taken", topic("points"), posthorn.Key(pointsKey))
)
