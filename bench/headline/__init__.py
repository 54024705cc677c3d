"""The parts of bench/latency.py."""
