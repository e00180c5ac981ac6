"""Benchmarks and analyses: the protocol, and one file for each."""
