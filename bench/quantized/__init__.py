"""Quantized drafters: python -m bench.quantized"""
