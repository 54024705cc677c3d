"""The ops against their peers: python -m bench.ops"""
