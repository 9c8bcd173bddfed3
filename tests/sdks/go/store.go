package main

import (
	"encoding/json"
	"fmt"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/launchdarkly/go-sdk-common/v3/ldlog"
	lddynamodb "github.com/launchdarkly/go-server-sdk-dynamodb/v4"
	ldredis "github.com/launchdarkly/go-server-sdk-redis-redigo/v3"
	"github.com/launchdarkly/go-server-sdk/v7/subsystems"
	"github.com/launchdarkly/go-server-sdk/v7/subsystems/ldstoreimpl"
	"github.com/launchdarkly/go-server-sdk/v7/subsystems/ldstoretypes"
)

// database is what the SDK reads and writes by itself.
type database struct {
	store   string
	address string
	prefix  string
	table   string
}

type storeConfigurer = subsystems.ComponentConfigurer[subsystems.PersistentDataStore]

// configurer makes the SDK's own store classes.
func (d database) configurer() (storeConfigurer, error) {
	switch d.store {
	case "redis":
		address := url.URL{Scheme: "redis", Host: d.address}
		return ldredis.DataStore().URL(address.String()).Prefix(d.prefix), nil
	case "dynamodb":
		endpoint := dynamodb.EndpointResolverFromURL("http://" + d.address)
		return lddynamodb.DataStore(d.table).Prefix(d.prefix).ClientOptions(
			dynamodb.Options{}, func(o *dynamodb.Options) { o.EndpointResolver = endpoint },
		), nil
	default:
		return nil, fmt.Errorf("this SDK has no store for %q", d.store)
	}
}

// writer writes by a store of the SDK, as the SDK itself does with what LaunchDarkly sends.
type writer struct {
	store subsystems.PersistentDataStore
}

func newWriter(configurer storeConfigurer, loggers ldlog.Loggers) (*writer, error) {
	context := subsystems.BasicClientContext{
		Logging: subsystems.LoggingConfiguration{Loggers: loggers},
	}
	store, err := configurer.Build(context)
	if err != nil {
		return nil, err
	}
	return &writer{store: store}, nil
}

func (w *writer) upsert(kindName string, items []json.RawMessage) error {
	kind, err := kindNamed(kindName)
	if err != nil {
		return err
	}
	for _, item := range items {
		serialized, err := serializedItem(kind, item)
		if err != nil {
			return err
		}
		if _, err := w.store.Upsert(kind, serialized.Key, serialized.Item); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) init(features, segments []json.RawMessage) error {
	var all []ldstoretypes.SerializedCollection
	for _, given := range []struct {
		kind  ldstoretypes.DataKind
		items []json.RawMessage
	}{{ldstoreimpl.Segments(), segments}, {ldstoreimpl.Features(), features}} {
		collection := ldstoretypes.SerializedCollection{Kind: given.kind}
		for _, item := range given.items {
			serialized, err := serializedItem(given.kind, item)
			if err != nil {
				return err
			}
			collection.Items = append(collection.Items, serialized)
		}
		all = append(all, collection)
	}
	return w.store.Init(all)
}

func kindNamed(name string) (ldstoretypes.DataKind, error) {
	for _, kind := range ldstoreimpl.AllKinds() {
		if kind.GetName() == name {
			return kind, nil
		}
	}
	return nil, fmt.Errorf("unknown kind %q", name)
}

// serializedItem decodes an item and encodes it again, as the SDK does on its way to a store.
func serializedItem(
	kind ldstoretypes.DataKind, data json.RawMessage,
) (ldstoretypes.KeyedSerializedItemDescriptor, error) {
	var named struct {
		Key string `json:"key"`
	}
	if err := json.Unmarshal(data, &named); err != nil {
		return ldstoretypes.KeyedSerializedItemDescriptor{}, err
	}
	item, err := kind.Deserialize(data)
	if err != nil {
		return ldstoretypes.KeyedSerializedItemDescriptor{}, err
	}
	return ldstoretypes.KeyedSerializedItemDescriptor{
		Key: named.Key,
		Item: ldstoretypes.SerializedItemDescriptor{
			Version:        item.Version,
			Deleted:        item.Item == nil,
			SerializedItem: kind.Serialize(item),
		},
	}, nil
}
