package contract

import "github.com/posthorn/posthorn"

// topic declares the topic of the events whose names begin with its own, as they
// would be without it, but for one thing: four processes of a service can share its
// work, and not eight, which is plenty for this shop and half as much to look after.
// How many handlers run in a process has nothing to do with it.
func topic(name string) posthorn.TypeOption {
	return posthorn.In(posthorn.DefineTopic(name, posthorn.TopicConfig{Partitions: 4}))
}
