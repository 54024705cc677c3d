"""Benchmarks. Each program prints tables, and writes all figures with ``--json``.

- ``python bench/latency.py``: the headline benchmark, output for output against transformers.
- ``python bench/throughput.py``: continuous batching, tokens per second by batch size.
- ``python bench/overhead.py``: the time of a cycle outside the passes of its models.
- ``python bench/launches.py``: how many operations a cycle launches.
- ``python -m bench.synthetic``: decoding at real size with random weights.
- ``python -m bench.quantized``: formats of a drafter's weights, and draft vocabularies.
- ``python -m bench.ops``: every op against its peers and the machine's ceilings.
- ``python -m bench.headline.prefill_rows``: prompt rows that drafters read, computed.
- ``python -m bench.headline.markdown``, ``.plot``, ``.compare_plot``: tables and images of a
  headline run's JSON file.
- ``python -m bench.synthetic.plot``: the image of a synthetic run's JSON file.
"""
