"""Kernels: log-probabilities, attention and long measurements that need little memory."""
