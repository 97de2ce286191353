package contract

import "github.com/posthorn/posthorn"

// A Shipment is a parcel that moves, or one that stays.
type Shipment struct {
	OrderID  string `json:"order_id"` // of the order, or of the cancellation
	Customer string `json:"customer,omitempty"`
	Country  string `json:"country,omitempty"`
	Units    int64  `json:"units"`
}

func shipmentKey(s Shipment) string { return s.OrderID }

// The events of a shipment.
var (
	ShipmentSent     = posthorn.Define[Shipment]("shipment.sent", topic("shipment"), posthorn.Key(shipmentKey))
	ShipmentStopped  = posthorn.Define[Shipment]("shipment.stopped", topic("shipment"), posthorn.Key(shipmentKey))
	ShipmentReturned = posthorn.Define[Shipment]("shipment.returned", topic("shipment"), posthorn.Key(shipmentKey))
)
