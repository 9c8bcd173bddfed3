"""The databases that the SDK reads and writes by itself, by its own store classes."""

from ldclient.feature_store import CacheConfig
from ldclient.integrations import Consul, DynamoDB, Redis
from ldclient.versioned_data_kind import FEATURES, SEGMENTS

KINDS = {kind.namespace: kind for kind in (SEGMENTS, FEATURES)}


def open_store(arguments):
    """The SDK's store, without a cache of its own."""
    host, port = arguments.address.rsplit(":", 1)
    caching = CacheConfig.disabled()
    if arguments.store == "redis":
        return Redis.new_feature_store(
            url=f"redis://{arguments.address}", prefix=arguments.prefix, caching=caching
        )
    if arguments.store == "dynamodb":
        return DynamoDB.new_feature_store(
            arguments.table,
            prefix=arguments.prefix,
            dynamodb_opts={"endpoint_url": f"http://{arguments.address}"},
            caching=caching,
        )
    return Consul.new_feature_store(
        host=host, port=int(port), prefix=arguments.prefix, caching=caching
    )


def upsert(store, command):
    for item in command["items"]:
        store.upsert(KINDS[command["kind"]], item)


def init(store, command):
    store.init(
        {kind: {item["key"]: item for item in command[name]} for name, kind in KINDS.items()}
    )
