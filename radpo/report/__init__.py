"""The report: one self-contained HTML file from a run directory."""
