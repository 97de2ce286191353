package posthorn

import (
	"context"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/internal/bridge"
)

func init() {
	bridge.Of = func(bus any) bridge.Bus {
		b := bus.(*Bus)
		return bridge.Bus{
			Driver: b.drv, Member: b.member, Now: b.now, Log: b.log, MaxPayload: b.opts.maxPayload,
			Groups: b.groupSpecs,
			Group:  func(ctx context.Context, name string) (driver.GroupSpec, error) { return b.groupSpec(ctx, name) },
			Letter: func(group string, p driver.Partition, e *driver.Entry) (any, error) { return deadLetter(group, p, e) },
			Headers: func(headers []driver.Attr) error {
				for _, h := range headers {
					if err := checkHeader(h.Name, h.Value); err != nil {
						return err
					}
				}
				if n := headerBytes(headers); n > maxHeaderBytes {
					return errorf(CodeTooLarge, "the headers are %d bytes, the limit is %d", n, maxHeaderBytes)
				}
				return nil
			},
			Wrap: func(err error, text string) error { return wrapf(err, "%s", text) },
		}
	}
}
