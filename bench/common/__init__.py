"""What several benchmarks share: options, files, timing, ceilings, goals, tables."""
