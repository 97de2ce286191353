// Package contract holds what the shop's services know of each other: the event
// types that they publish and handle, and nothing else.
//
//	event                      published by   key         means
//	order.placed               order          order id    somebody ordered these lines
//	order.cancelled            order          order id    goods come back, money goes back
//	order.adjusted             order          order id    the books are put right; no goods move
//	item.ordered               order          stock code  one line of an order
//	item.written-off           order          stock code  one line of an order whose goods are lost
//	item.returned              order          stock code  one line of a cancellation
//	payment.captured           payment        order id    the order is paid for
//	payment.refunded           payment        order id    the cancellation is paid back
//	payment.adjusted           payment        order id    the adjustment is booked
//	stock.reserved             inventory      order id    all goods of the order are set aside
//	stock.restocked            inventory      order id    all goods of the cancellation are back
//	stock.short                inventory      stock code  more was ordered than is there
//
// Events of one key are handled in the order they were published in, so there
// are two streams of an order: the whole of it by its id, for whoever cares for
// the money, and its lines by their stock code, for whoever counts the goods.
package contract
