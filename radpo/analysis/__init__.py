"""Analysis: statistics, and what alignment made the model unlearn."""
