"""Checks that need more than a Python: `kernel_gate` an nvcc, `gpu_check` a GPU."""
