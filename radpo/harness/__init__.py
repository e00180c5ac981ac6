"""Benchmarks: each file turns a model's answers into results and examples."""
