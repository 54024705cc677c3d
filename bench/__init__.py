"""Benchmarks: `python bench/latency.py`, the main job, and `python -m bench.ops`, the ops."""
