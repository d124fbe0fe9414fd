"""The folder that holds every stage's folder: inputs, run loop, items, manifests, shards."""
