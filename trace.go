package posthorn

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/posthorn/posthorn/driver"
)

// The trace context travels as the CloudEvents attributes of the distributed
// tracing extension, in the W3C format.
const (
	attrTraceParent = "traceparent"
	attrTraceState  = "tracestate"
)

type attrCarrier struct{ attrs *[]driver.Attr }

func (c attrCarrier) Get(name string) string {
	for _, a := range *c.attrs {
		if a.Name == name {
			return a.Value
		}
	}
	return ""
}
func (c attrCarrier) Set(name, value string) {
	*c.attrs = append(*c.attrs, driver.Attr{Name: name, Value: value})
}
func (c attrCarrier) Keys() []string { return []string{attrTraceParent, attrTraceState} }

// appendTrace adds the span of ctx, if it has one.
func appendTrace(ctx context.Context, attrs []driver.Attr) []driver.Attr {
	if trace.SpanContextFromContext(ctx).IsValid() {
		propagation.TraceContext{}.Inject(ctx, attrCarrier{&attrs})
	}
	return attrs
}

// withTrace puts the span that an event carries into ctx, as a remote one.
func withTrace(ctx context.Context, attrs []driver.Attr) context.Context {
	for i := range attrs {
		if attrs[i].Name == attrTraceParent && attrs[i].Value != "" {
			return extractTrace(ctx, attrs)
		}
	}
	return ctx
}

func extractTrace(ctx context.Context, attrs []driver.Attr) context.Context {
	return propagation.TraceContext{}.Extract(ctx, attrCarrier{&attrs})
}
