// The database that the SDK reads and writes by itself, by its own store class.

// As a whole: the package is CommonJS.
import redis from '@launchdarkly/node-server-sdk-redis';

// A factory of the SDK's store, without a cache of its own.
export function storeFactory({ store, address, prefix }) {
  if (store !== 'redis') throw new Error(`this SDK has no store for ${store}`);
  const [host, port] = address.split(':');
  return redis.RedisFeatureStore({ redisOpts: { host, port: Number(port) }, prefix, cacheTTL: 0 });
}

export async function upsert(store, { kind, items }) {
  for (const item of items) {
    await new Promise((resolve) => store.upsert({ namespace: kind }, item, resolve));
  }
}

export async function init(store, { features, segments }) {
  const byKey = (items) => Object.fromEntries(items.map((item) => [item.key, item]));
  const all = { features: byKey(features), segments: byKey(segments) };
  await new Promise((resolve) => store.init(all, resolve));
}
