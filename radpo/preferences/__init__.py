"""Scored preferences: loading, goals, relabeling, and making them from a model's own samples."""
