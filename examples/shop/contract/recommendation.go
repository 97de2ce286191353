package contract

import "github.com/posthorn/posthorn"

// Together says that two goods are often bought together.
type Together struct {
	A      string `json:"a"` // stock codes, A before B
	B      string `json:"b"`
	Orders int64  `json:"orders"` // in how many
}

// RecommendationMade is said once of each pair.
var RecommendationMade = posthorn.Define[Together]("recommendation.made", topic("recommendation"),
	posthorn.Key(func(t Together) string { return t.A }))
