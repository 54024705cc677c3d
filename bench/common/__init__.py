"""What all benchmarks share: timing, environment, tables."""
