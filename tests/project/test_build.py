"""The build: what hivis._C says about itself, and that each op is there."""

from __future__ import annotations

import pytest
import torch

from hivis import _C, __version__, ops

OPS = sorted({*ops.__all__} - {"build_info", "missing_on"})


def test_build_info():
    info = ops.build_info()
    assert info["version"] == __version__
    assert info["torch"] == torch.__version__
    assert isinstance(info["cuda"], bool)
    assert bool(info["cuda_arch_list"]) == info["cuda"]
    assert info["compiler"] and info["cpu_flags"]


@pytest.mark.parametrize("name", OPS)
def test_each_op_has_a_schema_a_wrapper_and_a_docstring(name: str):
    assert hasattr(torch.ops.hivis, name)
    assert callable(getattr(ops, name)) and getattr(ops, name).__doc__
    if hasattr(_C, name):
        doc = getattr(_C, name).__doc__
        assert "RuntimeError" in doc and "[B" in doc


def test_each_op_has_a_wrapper():
    every = torch._C._dispatch_get_all_op_names()
    assert [name for name in sorted(every) if name.startswith("hivis::")] == [
        f"hivis::{name}" for name in OPS
    ]


@pytest.mark.parametrize("name", OPS)
def test_an_op_has_a_body_for_the_cpu(name: str):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"hivis::{name}", "CPU")


def test_the_cpu_lacks_no_op():
    assert ops.missing_on("cpu") == []
    assert "kv_compact_" in ops.missing_on("cuda") or ops.build_info()["cuda"]


def test_an_op_for_cuda_is_there_exactly_when_the_build_says_so():
    has = torch._C._dispatch_has_kernel_for_dispatch_key("hivis::kv_compact_", "CUDA")
    assert has == ops.build_info()["cuda"]
