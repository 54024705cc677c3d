"""Models of real size with random weights: python -m bench.synthetic"""
