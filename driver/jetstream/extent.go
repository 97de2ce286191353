package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/posthorn/posthorn/driver"
)

func (d *jsDriver) Extents(ctx context.Context, topic string) ([]driver.Extent, error) {
	spec, err := d.topicRecord(ctx, topic)
	if err != nil {
		return nil, err
	}
	all := make([]driver.Extent, spec.Partitions)
	errs := make([]error, spec.Partitions)
	var wg sync.WaitGroup
	turns := make(chan struct{}, 8)
	for n := range all {
		wg.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			var info streamInfo
			if info, errs[n] = d.streamInfo(ctx, d.names.partition(driver.Partition{Topic: topic, N: n})); errs[n] == nil {
				all[n] = driver.Extent{First: max(info.State.First, 1), Last: info.State.Last, Bytes: int64(info.State.Bytes)}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("jetstream: topic %q: %w", topic, err)
		}
	}
	return all, nil
}

// topicRecord reads what is declared of a topic, and opens nothing.
func (d *jsDriver) topicRecord(ctx context.Context, name string) (driver.TopicSpec, error) {
	if spec, ok := d.knownTopic(name); ok {
		return spec, nil
	}
	var r topicRecord
	rev, err := d.getRecord(ctx, d.names.topic(name), &r)
	if err == nil && rev == 0 {
		err = fmt.Errorf("jetstream: topic %q: %w", name, driver.ErrNotFound)
	}
	return r.Spec, err
}

// Plan lists the streams. The records beside them are messages, which need the
// right to publish and no administrator.
func (d *jsDriver) Plan(_ context.Context, topics []driver.TopicSpec, groups []driver.GroupSpec) ([]driver.Planned, error) {
	configs := []streamConfig{d.stateConfig()}
	for _, t := range topics {
		for n := range t.Partitions {
			configs = append(configs, d.partitionConfig(t, driver.Partition{Topic: t.Name, N: n}))
		}
	}
	for _, g := range groups {
		configs = append(configs, d.laneConfig(g.Name))
	}
	var all []driver.Planned
	for _, c := range configs {
		c.Replicas = d.byHand(c)
		why, _ := d.whyStream(c.Name)
		all = append(all, driver.Planned{Thing: driver.Thing{Kind: "stream", Name: c.Name, Why: why}, Settings: c.settings()})
	}
	return all, nil
}

// byHand is how many copies an administrator can give a stream.
func (d *jsDriver) byHand(c streamConfig) int {
	if d.nc.ConnectedClusterName() == "" {
		return 1
	}
	return d.replicaChoices(c.Replicas)[0]
}

// settings is the configuration as an administrator's tools take it.
func (c streamConfig) settings() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(c) // there is nothing in it that cannot be encoded
	return bytes.TrimSpace(b.Bytes())
}
