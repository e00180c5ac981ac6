"""The check of the paper's theorem, on bandits that are solved exactly."""
