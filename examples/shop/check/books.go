package check

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"strconv"
)

// Opening is how many units of each stock code the shop has at first.
const Opening = 1000

// Books are the totals of a shop.
type Books struct {
	Orders, Cancellations, Adjustments int64

	// Settled counts the orders of any kind whose payment is known to the order
	// service, Moved those whose goods are.
	Settled, Moved int64
	// Heard is how many steps of orders through the other services the order service
	// knows of.
	Heard int64

	Captured, Refunded, Adjusted *big.Rat

	// Shortages counts how often the stock of a code went below nothing.
	Shortages int64
	// Stock is the history of each stock code.
	Stock map[string]History

	// Parcels counts those sent, by country; Units what is in them.
	Parcels map[string]int64
	Units   int64
	// Returns counts the parcels that came back, Stopped those that were not sent.
	Returns, Stopped int64

	// Customers are all that were seen, with their countries; Coupons those who have
	// got a coupon.
	Customers map[string]string
	Coupons   map[string]bool
	// Points is the history of each customer's account.
	Points map[string]History

	// Baskets counts the orders from which pairs are learnt, Pairs in how many of
	// them two stock codes stand together.
	Baskets int64
	Pairs   map[[2]string]int64

	// Letters counts those to customers, Notes those to the buyer.
	Letters, Notes int64

	// DeadLetters are how many events each group gave up on.
	DeadLetters map[string]int64
}

// A History is that of a stock code, in units, or of an account, in points.
type History struct {
	Out, Lost, Back int64 // ordered or given, written off, returned or taken
	// Chain is the last link of a chain of hashes over all movements, in order:
	// SHA-256 of the link before and of a line such as "KIND INVOICE LINE UNITS\n".
	Chain string
	links int64
}

func newBooks() *Books {
	return &Books{Captured: new(big.Rat), Refunded: new(big.Rat), Adjusted: new(big.Rat), Stock: map[string]History{},
		Parcels: map[string]int64{}, Customers: map[string]string{}, Coupons: map[string]bool{}, Points: map[string]History{},
		Pairs: map[[2]string]int64{}, DeadLetters: map[string]int64{}}
}

// enter books an invoice.
func (b *Books) enter(in *invoice) error {
	sum := new(big.Rat)
	for _, l := range in.lines {
		price, ok := new(big.Rat).SetString(l.price)
		if !ok {
			return fmt.Errorf("the price %q is no number", l.price)
		}
		sum.Add(sum, price.Mul(price, new(big.Rat).SetInt64(l.units)))
	}
	b.Settled++
	switch in.number[0] {
	case 'A':
		b.Adjustments++
		b.Adjusted.Add(b.Adjusted, sum)
		switch {
		case sum.Sign() > 0 && in.customer != "":
			b.Letters++ // money is asked for
		case sum.Sign() > 0:
			b.DeadLetters["notification"]++ // of nobody
		}
		return nil // no goods move, and it is no purchase
	case 'C':
		b.Cancellations++
		b.Refunded.Sub(b.Refunded, sum)
		b.Returns++
		b.purchase(in, "taken", sum.Neg(sum))
	default:
		b.Orders++
		b.Captured.Add(b.Captured, sum)
		b.ship(in)
		b.learn(in)
		b.purchase(in, "given", sum)
	}
	b.Moved++
	for i, l := range in.lines {
		b.move(in.number, i+1, l)
	}
	return nil
}

// ship sends a parcel with all that goes out.
func (b *Books) ship(in *invoice) {
	units := int64(0)
	for _, l := range in.lines {
		units += max(l.units, 0)
	}
	if units == 0 {
		return
	}
	b.Parcels[in.country]++
	b.Units += units
	if in.customer != "" {
		b.Letters++ // it is on its way
	}
}

// learn counts the pairs of an order of two to ten different goods.
func (b *Books) learn(in *invoice) {
	codes := map[string]bool{}
	for _, l := range in.lines {
		if l.units > 0 {
			codes[l.code] = true
		}
	}
	if len(codes) < 2 || len(codes) > 10 {
		return
	}
	b.Baskets++
	for x := range codes {
		for y := range codes {
			if x < y {
				b.Pairs[[2]string{x, y}]++
			}
		}
	}
}

// purchase books points for each whole pound, writes to the customer, and registers
// who is new.
func (b *Books) purchase(in *invoice, kind string, sum *big.Rat) {
	if in.customer == "" {
		return
	}
	b.Letters++ // thank you, or you get back
	points := new(big.Int).Quo(sum.Num(), sum.Denom()).Int64()
	account := b.Points[in.customer]
	if kind == "given" {
		account.Out += points
	} else {
		account.Back += points
	}
	account.link(kind + " " + in.number + " " + strconv.FormatInt(points, 10))
	b.Points[in.customer] = account
	if _, seen := b.Customers[in.customer]; !seen {
		b.Customers[in.customer] = in.country
		b.Coupons[in.customer] = true
		b.Letters++ // with the coupon
	}
}

// recommended is in how many orders two goods stand together when the buyer hears of
// them.
const recommended = 5

// close counts what follows from the totals.
func (b *Books) close() {
	b.Notes = b.Shortages
	for _, n := range b.Pairs {
		if n >= recommended {
			b.Notes++
		}
	}
	b.Heard = b.Settled + b.Moved + b.Returns + b.Letters + int64(2*len(b.Customers))
	for _, n := range b.Parcels {
		b.Heard += n
	}
	for _, account := range b.Points {
		b.Heard += account.links
	}
}

func (b *Books) move(number string, nth int, l line) {
	s := b.Stock[l.code]
	before := s.hand()
	kind, units := "ordered", l.units
	switch {
	case number[0] == 'C':
		kind, units = "returned", -units
		s.Back += units
	case units < 0:
		kind, units = "written-off", -units
		s.Lost += units
	default:
		s.Out += units
	}
	if before >= 0 && s.hand() < 0 {
		b.Shortages++
	}
	s.link(kind + " " + number + " " + strconv.Itoa(nth) + " " + strconv.FormatInt(units, 10))
	b.Stock[l.code] = s
}

func (h *History) hand() int64 { return Opening - h.Out - h.Lost + h.Back }

// link adds a line to the chain.
func (h *History) link(line string) {
	last, err := hex.DecodeString(h.Chain)
	if err != nil {
		panic(err) // it comes from below
	}
	sum := sha256.Sum256(append(last, line+"\n"...))
	h.Chain = hex.EncodeToString(sum[:])
	h.links++
}
