"""Figures: charts from tidy frames, and the sections that hold them."""
