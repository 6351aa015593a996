"""What stages and servers exchange: manifests in a store, rows of keys, shard plans, bundles."""
