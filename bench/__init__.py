"""Benchmarks: `python bench/latency.py`, the main job, and `python bench/kernels.py`, the ops."""
