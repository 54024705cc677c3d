"""What everybody uses: trees, sampling, the cache, and the contracts of targets and drafters."""
