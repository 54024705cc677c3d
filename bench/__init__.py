"""Benchmarks: `python bench/latency.py`, the headline benchmark, and `python -m bench.ops`, the
ops."""
