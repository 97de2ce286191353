// Command make cuts online-retail-part.csv.gz out of the whole file: the first
// invoices, and some around each of those that are out of the ordinary. All lines
// of an invoice go with it, as they stand.
//
//	go run ./shop/data/make -in ../../shared/data/online-retail.csv.gz
package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"os"
	"strings"
)

// special are invoices that the part must hold: one whose lines do not stand
// together, adjustments (two of them with a price below zero), and the largest.
// Invoices with two dates are among the first.
var special = []string{"542806", "A563185", "573585"}

func main() {
	in := flag.String("in", "", "the whole file, .csv.gz")
	out := flag.String("out", "shop/data/online-retail-part.csv.gz", "the part")
	first := flag.Int("first", 2500, "how many of the first invoices to take")
	around := flag.Int("around", 180, "how many invoices to take around each special one")
	flag.Parse()
	if err := run(*in, *out, *first, *around); err != nil {
		fmt.Fprintln(os.Stderr, "make:", err)
		os.Exit(1)
	}
}

func run(in, out string, first, around int) error {
	lines, err := read(in)
	if err != nil {
		return err
	}
	place := map[string]int{} // of an invoice among the invoices
	for _, l := range lines[1:] {
		if _, ok := place[invoice(l)]; !ok {
			place[invoice(l)] = len(place)
		}
	}
	wanted := func(number string) bool {
		p := place[number]
		for _, s := range special {
			if d := p - place[s]; d >= -around/2 && d < around/2 {
				return true
			}
		}
		return p < first
	}
	var part bytes.Buffer
	w, err := gzip.NewWriterLevel(&part, gzip.BestCompression)
	if err != nil {
		return err
	}
	for i, l := range lines {
		if i == 0 || wanted(invoice(l)) {
			fmt.Fprintln(w, l)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(out, part.Bytes(), 0o644)
}

func read(path string) (lines []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	in := bufio.NewScanner(z)
	for in.Scan() {
		lines = append(lines, in.Text())
	}
	return lines, in.Err()
}

// invoice is the number in front of a line.
func invoice(line string) string {
	number, _, _ := strings.Cut(line, ",")
	return number
}
