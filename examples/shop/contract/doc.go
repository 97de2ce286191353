// Package contract holds what the shop's services know of each other: the event
// types that they publish and handle, and nothing else.
//
//	event                 published by     key          means
//	order.placed          order            order id     somebody ordered these lines
//	order.cancelled       order            order id     goods come back, money goes back
//	order.adjusted        order            order id     the books are put right; no goods move
//	item.ordered          order            stock code   one line of an order
//	item.written-off      order            stock code   one line of an order whose goods are lost
//	item.returned         order            stock code   one line of a cancellation
//	purchase.made         order            customer     a customer we know has ordered
//	purchase.returned     order            customer     a customer we know has cancelled
//	payment.captured      payment          order id     the order is paid for
//	payment.refunded      payment          order id     the cancellation is paid back
//	payment.adjusted      payment          order id     the adjustment is booked
//	stock.reserved        inventory        order id     all goods of the order are set aside
//	stock.restocked       inventory        order id     all goods of the cancellation are back
//	stock.short           inventory        stock code   more was ordered than is there
//	shipment.sent         logistics        order id     the parcel is on its way
//	shipment.stopped      logistics        order id     cancelled in time: nothing is sent
//	shipment.returned     logistics        order id     the parcel is back
//	points.given          points           customer     for an order
//	points.taken          points           customer     back, for a cancellation
//	customer.registered   customer         customer     a customer is seen for the first time
//	coupon.issued         coupon           customer     a newcomer gets a coupon
//	recommendation.made   recommendation   stock code   two goods are often bought together
//	letter.sent           notification     order id     a customer was written to
//
// Events of one key are handled in the order they were published in, so an order
// is told of in three streams: the whole of it by its id, for whoever cares for the
// money; its lines by their stock code, for whoever counts the goods; and once more
// by the customer, for whoever keeps an account for each.
package contract
