"""The engine: graph, keys, store, schedule and executors."""
