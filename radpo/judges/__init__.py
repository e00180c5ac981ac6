"""Judges: whatever grades one response or compares two."""
