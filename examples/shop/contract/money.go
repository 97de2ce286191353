package contract

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// Money is an amount in thousandths of a pound: prices in the shop have up to
// three decimals, and sums of whole numbers are exact. In JSON it is a string,
// "2.550", since many readers of JSON make floating point of a number.
type Money int64

const pound = 1000

// ParseMoney reads a decimal such as "12", "2.55" or "-11062.06". More than
// three decimals, an exponent or a sign alone are errors: nothing is rounded.
func ParseMoney(s string) (Money, error) {
	digits, negative := strings.CutPrefix(s, "-")
	whole, fraction, dotted := strings.Cut(digits, ".")
	if !onlyDigits(whole) || dotted && !onlyDigits(fraction) || len(fraction) > 3 {
		return 0, fmt.Errorf("%q is no amount of money: digits are expected, with up to three decimals", s)
	}
	n, err := strconv.ParseInt(whole+fraction+"000"[len(fraction):], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is too large for an amount of money", s)
	}
	if negative {
		n = -n
	}
	return Money(n), nil
}

func onlyDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// Pounds is how many whole pounds the amount holds.
func (m Money) Pounds() int64 { return int64(m / pound) }

// Times returns the price of n pieces. It panics where the product does not fit:
// amounts that come from outside are bounded before they are multiplied.
func (m Money) Times(n int64) Money {
	hi, lo := bits.Mul64(magnitude(int64(m)), magnitude(n))
	if hi != 0 || lo > math.MaxInt64 {
		panic(fmt.Sprintf("contract: %v x %d is too large for an amount of money", m, n))
	}
	if (m < 0) != (n < 0) {
		return -Money(lo)
	}
	return Money(lo)
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

// String writes the amount with its three decimals.
func (m Money) String() string {
	b, _ := m.AppendText(make([]byte, 0, 16))
	return string(b)
}

// AppendText appends what String returns.
func (m Money) AppendText(b []byte) ([]byte, error) {
	if m < 0 {
		b = append(b, '-')
	}
	u := magnitude(int64(m))
	b = strconv.AppendUint(b, u/pound, 10)
	rest := u % pound
	return append(b, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10)), nil
}

// MarshalText makes Money a string in JSON.
func (m Money) MarshalText() ([]byte, error) { return m.AppendText(nil) }

// UnmarshalText reads what ParseMoney reads.
func (m *Money) UnmarshalText(text []byte) error {
	n, err := ParseMoney(string(text))
	if err == nil {
		*m = n
	}
	return err
}
