package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

const (
	// createWait bounds how long creating a stream is tried while a cluster
	// elects its leader, and createTry one attempt.
	createWait = 30 * time.Second
	createTry  = 5 * time.Second
	// peersWait is how long a cluster that knows enough servers may take to give
	// as many copies.
	peersWait   = 5 * time.Second
	createPause = 100 * time.Millisecond
	// topReplicas is as many copies as are made by default.
	topReplicas = 3
)

// ensureStream creates a stream unless it stands. It refuses one that is not ours.
func (d *jsDriver) ensureStream(ctx context.Context, c streamConfig) error {
	_, _, err := d.openStream(ctx, c)
	return err
}

// openStream is ensureStream, and tells how the stream stands and whether it was
// made by this call.
func (d *jsDriver) openStream(ctx context.Context, c streamConfig) (info streamInfo, made bool, err error) {
	info, err = d.streamInfo(ctx, c.Name)
	if errors.Is(err, driver.ErrNotFound) {
		info, err = d.createStream(ctx, c)
		made = err == nil
	}
	if err != nil {
		return info, false, err
	}
	if err := ours(info.Config, c); err != nil {
		return info, made, err
	}
	if err := d.enable(ctx, info.Config, c); err != nil {
		return info, made, err
	}
	if err := d.copiesEnough(info.Config); err != nil {
		return info, made, err
	}
	return info, made, d.heardOf(ctx, info)
}

// youngStream is for how long a stream is taken for one that not all servers of a
// cluster know of.
const youngStream = time.Minute

// heardOf waits until our server passes on what is published to a stream: another
// one leads it, and word of a new stream takes a moment. What it asks with cannot
// be stored.
func (d *jsDriver) heardOf(ctx context.Context, info streamInfo) error {
	if !d.clustered || info.Now.Sub(info.Created) > youngStream {
		return nil
	}
	subject := strings.Replace(info.Config.Subjects[0], ">", "x", 1)
	_, err := d.callSurely(ctx, &nats.Msg{Subject: subject, Header: nats.Header{"Nats-Expected-Stream": {"none"}}})
	if errors.Is(err, driver.ErrDenied) {
		return nil // who may not publish need not wait
	}
	return err
}

// createStream creates a stream with as many copies as it is to have.
func (d *jsDriver) createStream(ctx context.Context, c streamConfig) (streamInfo, error) {
	for _, n := range d.replicaChoices(c.Replicas) {
		c.Replicas = n
		info, err := d.createPatiently(ctx, c)
		if err == nil || !tooFewPeers(err) {
			return info, d.explainCreate(c, err)
		}
	}
	return streamInfo{}, d.notSoMany(c)
}

// replicaChoices are the numbers of copies to try, in this order.
func (d *jsDriver) replicaChoices(declared int) []int {
	d.mu.Lock()
	stands := d.replicas
	d.mu.Unlock()
	switch {
	case declared > 0:
		return []int{declared}
	case d.opts.Replicas > 0:
		return []int{d.opts.Replicas}
	}
	top, least := topReplicas, max(d.opts.MinReplicas, 1)
	if stands > 0 { // fewer only while a server is away, which an audit tells
		top, least = stands, max(min(stands, 2), d.opts.MinReplicas)
	}
	var all []int
	for n := top; n >= least; n-- {
		all = append(all, n)
	}
	return all
}

func tooFewPeers(err error) bool {
	refused := (*apiError)(nil)
	return errors.As(err, &refused) && (refused.ErrCode == codeNoPeers || refused.ErrCode == codeNotClustered)
}

// createPatiently tries again while the cluster elects its leader. The first stream
// of a store, by which others go, also waits a little for servers that are known and
// not there yet.
func (d *jsDriver) createPatiently(ctx context.Context, c streamConfig) (streamInfo, error) {
	begun := time.Now() // monotonic
	d.mu.Lock()
	opened := d.replicas > 0
	d.mu.Unlock()
	for {
		info, err := d.createOnce(ctx, c)
		passed := time.Since(begun) // monotonic
		refused := (*apiError)(nil)
		switch {
		case err == nil:
			return info, nil
		case ctx.Err() != nil || passed > createWait:
			return info, err
		case errors.Is(err, context.DeadlineExceeded):
		case !errors.As(err, &refused):
			return info, err
		case refused.ErrCode == codeNotAvailable || refused.ErrCode == codeNotLeader:
		case refused.ErrCode == codeNoPeers && passed < peersWait && !opened && len(d.nc.Servers()) >= c.Replicas:
		default:
			return info, err
		}
		select {
		case <-time.After(createPause):
		case <-ctx.Done():
			return info, err
		}
	}
}

func (d *jsDriver) createOnce(ctx context.Context, c streamConfig) (streamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, createTry)
	defer cancel()
	var info streamInfo
	err := d.request(ctx, "$JS.API.STREAM.CREATE."+c.Name, c, &info)
	if refused := (*apiError)(nil); errors.As(err, &refused) && refused.ErrCode == codeStreamExists {
		return d.streamInfo(ctx, c.Name) // somebody was quicker
	}
	return info, err
}

// explainCreate says who can help.
func (d *jsDriver) explainCreate(c streamConfig, err error) error {
	refused := (*apiError)(nil)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, driver.ErrDenied):
		c.Replicas = d.byHand(c)
		return fmt.Errorf("stream %s does not exist, and this user may not create it: have somebody create it who may, with the configuration %s: %w", c.Name, c.settings(), err)
	case errors.As(err, &refused) && refused.ErrCode == codeSubjectOverlap:
		return fmt.Errorf("stream %s cannot be made: another program's stream takes subjects of %v: change that one, or keep this installation apart with instance=NAME in the URL: %w", c.Name, c.Subjects, err)
	}
	return fmt.Errorf("creating stream %s: %w", c.Name, err)
}

// notSoMany is the refusal of a number of copies that the server does not give.
func (d *jsDriver) notSoMany(c streamConfig) error {
	if d.opts.MinReplicas > 1 && c.Replicas <= d.opts.MinReplicas && c.Replicas != d.opts.Replicas {
		return d.notDurable(fmt.Sprintf("the server at %s gives no more than one copy of a stream", d.opts.Store))
	}
	return fmt.Errorf("stream %s is to have %d replicas, and the server at %s has not so many servers with JetStream that can take it: "+
		"add servers, start those that are away, or ask for fewer (replicas=N in the URL, Replicas of the topic): %w",
		c.Name, c.Replicas, d.opts.Store, driver.ErrMismatch)
}

// copiesEnough refuses a stream that would lose what was confirmed.
func (d *jsDriver) copiesEnough(have streamConfig) error {
	if have.Replicas >= d.opts.MinReplicas {
		return nil
	}
	return d.notDurable(fmt.Sprintf("stream %s has one copy (replicas=%d)", have.Name, have.Replicas))
}

func (d *jsDriver) notDurable(what string) error {
	return fmt.Errorf("%s, and what a server has acknowledged is written to its disk only minutes later: a power cut would lose what was confirmed; "+
		"use a cluster of three (nats stream update NAME --replicas=3 gives a stream that stands its copies), or `posthorn serve`, "+
		"or accept it by adding durability=%s to the URL: %w", what, durabilityName, driver.ErrMismatch)
}

// ours refuses a stream of another program.
func ours(have, want streamConfig) error {
	if slices.Equal(have.Subjects, want.Subjects) && sameTopic(have, want) {
		return nil
	}
	return fmt.Errorf("stream %s is not Posthorn's: it takes %v%s, where ours takes %v: give the other program's stream another name, "+
		"or keep this installation apart with instance=NAME in the URL: %w",
		have.Name, have.Subjects, ofTopic(have), want.Subjects, driver.ErrMismatch)
}

// topicMetadata is where a partition's stream says whose it is.
const topicMetadata = "posthorn-topic"

// sameTopic: one that was made by hand need not say.
func sameTopic(have, want streamConfig) bool {
	topic, ok := have.Metadata[topicMetadata]
	return !ok || topic == want.Metadata[topicMetadata]
}

func ofTopic(c streamConfig) string {
	if topic, ok := c.Metadata[topicMetadata]; ok {
		return fmt.Sprintf(" for topic %q", topic)
	}
	return ""
}

// enable switches on what an earlier version of us, or somebody's hand, has left
// out and we cannot do without.
func (d *jsDriver) enable(ctx context.Context, have, want streamConfig) error {
	lacks := map[string]any{}
	if want.AllowDirect && !have.AllowDirect {
		lacks["allow_direct"] = true
	}
	if want.AllowBatched && !have.AllowBatched {
		lacks["allow_batched"] = true
	}
	if want.AllowRollupHdr && !have.AllowRollupHdr {
		lacks["allow_rollup_hdrs"] = true
		lacks["max_msgs_per_subject"] = want.MaxPerSubject // see headerRollup
	}
	if len(lacks) == 0 {
		return nil
	}
	var info struct {
		Config map[string]any `json:"config"`
	}
	if err := d.request(ctx, "$JS.API.STREAM.INFO."+have.Name, nil, &info); err != nil {
		return err
	}
	maps.Copy(info.Config, lacks)
	if err := d.request(ctx, "$JS.API.STREAM.UPDATE."+have.Name, info.Config, nil); err != nil {
		return fmt.Errorf("stream %s lacks settings that are needed and cannot be given them (%v): %w", have.Name, lacks, err)
	}
	return nil
}

// changes lists the settings that are not as we made them and by which messages
// would be lost.
func changes(have, want streamConfig) []string {
	var all []string
	differ := func(name string, h, w any) {
		if h != w {
			all = append(all, fmt.Sprintf("%s is %v, not %v", name, h, w))
		}
	}
	differ("retention", have.Retention, want.Retention)
	differ("storage", have.Storage, want.Storage)
	differ("discard", have.Discard, want.Discard)
	differ("max_age", time.Duration(have.MaxAge), time.Duration(want.MaxAge))
	differ("max_msgs", have.MaxMsgs, want.MaxMsgs)
	differ("max_msgs_per_subject", have.MaxPerSubject, want.MaxPerSubject)
	if have.Discard != "new" || want.MaxBytes <= 0 {
		differ("max_bytes", have.MaxBytes, want.MaxBytes)
	}
	return all
}
