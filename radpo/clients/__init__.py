"""The HTTP client: retries, budgets and the cache of replies."""
