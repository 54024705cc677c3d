"""kv_compact_: bit-exact against the oracle, whatever the slab's dtype, strides and lengths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hivis import _C, ops
from hivis.ops import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def i32(values: list, device: torch.device | str = "cpu") -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def check(kv: Tensor, kv_len: Tensor, path: Tensor, path_len: Tensor) -> None:
    """The op and the oracle leave the same bytes behind, in all of the slab and in kv_len."""
    wanted, wanted_len = kv.clone(), kv_len.clone()
    reference.kv_compact_(wanted, wanted_len, path, path_len)
    ops.kv_compact_(kv, kv_len, path, path_len)
    as_bytes = lambda t: t.contiguous().view(torch.uint8)  # noqa: E731 (NaN differs from itself)
    assert torch.equal(as_bytes(kv), as_bytes(wanted))
    assert torch.equal(kv_len, wanted_len)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [16, 64, 80, 128])
def test_matches_the_oracle(device: torch.device, dtype: torch.dtype, dim: int):
    kv = torch.randn(3, 2, 3, 2, 40, dim, device=device).to(dtype)
    kv_len = i32([0, 7, 21], device)
    path = i32([[0, 1, 2, 3], [0, 3, 4, 15], [0, 2, 2, 2]], device)
    check(kv, kv_len, path, i32([4, 4, 2], device))


def test_rows_behind_the_path_may_hold_anything(device: torch.device):
    kv = torch.full((2, 2, 1, 2, 12, 16), float("nan"), device=device)
    kv[..., :8, :] = torch.randn(8, 16, device=device)
    check(kv, i32([3], device), i32([[0, 4, 4]], device), i32([2], device))


def test_entries_behind_path_len_are_not_read(device: torch.device):
    kv = torch.randn(2, 2, 1, 2, 12, 16, device=device)
    kv_len = i32([3], device)
    check(kv, kv_len, i32([[0, 4, 2147483647, -5]], device), i32([2], device))


def test_rows_of_no_bytes(device: torch.device):
    check(
        torch.randn(2, 2, 1, 2, 12, 0, device=device),
        i32([3], device),
        i32([[0, 5]], device),
        i32([2], device),
    )


@pytest.mark.parametrize("length", [0, 1])
def test_nothing_to_move(device: torch.device, length: int):
    kv = torch.randn(2, 2, 1, 2, 12, 16, device=device)
    check(kv, i32([3], device), i32([[0, 5]], device), i32([length], device))


def test_a_strided_slab(device: torch.device):
    whole = torch.randn(4, 2, 2, 6, 24, 48, device=device)
    before = whole.clone()
    kv = whole[1:3, :, :, ::2, 2:22, 8:40]
    check(kv, i32([1, 9], device), i32([[0, 2, 9], [1, 2, 5]], device), i32([3, 3], device))
    outside = torch.ones_like(whole, dtype=torch.bool)
    outside[1:3, :, :, ::2, 2:22, 8:40] = False
    assert torch.equal(whole[outside], before[outside])


def test_rows_that_are_no_multiple_of_16_bytes(device: torch.device):
    kv = torch.randn(2, 2, 1, 3, 20, 5, device=device).to(torch.bfloat16)
    check(kv, i32([2], device), i32([[0, 3, 4, 11]], device), i32([4], device))


def test_a_large_slab_uses_all_threads(device: torch.device):
    torch.set_num_threads(3)  # the suite's fixture puts it back to what it was
    kv = torch.randn(8, 2, 1, 8, 64, 128, device=device)
    check(kv, i32([20], device), i32([[0, 2, 5, 9, 17, 30]], device), i32([6], device))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_path(data: st.DataObject):
    rows, count = 40, data.draw(st.integers(0, 12))
    start = data.draw(st.integers(0, 20))
    steps = st.lists(st.integers(0, rows - start - 1), min_size=count, max_size=count, unique=True)
    nodes = sorted(data.draw(steps)) + [0] * (12 - count)
    check(torch.randn(2, 2, 1, 2, rows, 8), i32([start]), i32([nodes]), i32([count]))


def test_the_module_function_is_the_same_op(device: torch.device):
    kv, kv_len = torch.randn(1, 2, 1, 1, 8, 16, device=device), i32([2], device)
    twin, twin_len = kv.clone(), kv_len.clone()
    path, path_len = i32([[0, 3]], device), i32([2], device)
    ops.kv_compact_(kv, kv_len, path, path_len)
    _C.kv_compact_(twin, twin_len, path, path_len)
    assert torch.equal(kv, twin) and torch.equal(kv_len, twin_len)


def test_opcheck(device: torch.device):
    kv = torch.randn(2, 2, 2, 2, 12, 16, device=device)
    args = (kv, i32([3, 0], device), i32([[0, 2], [0, 1]], device), i32([2, 2], device))
    torch.library.opcheck(torch.ops.hivis.kv_compact_.default, args)


KV = torch.zeros(1, 2, 1, 2, 10, 8)
GOOD = (KV, i32([3]), i32([[0, 2]]), i32([2]))
BAD = [
    ((KV[0], *GOOD[1:]), "kv: wanted 6 dimensions, got 5"),
    ((KV[:, :1], *GOOD[1:]), r"kv: wanted 2 in dimension 1 \(K and V\), got 1"),
    ((KV.transpose(4, 5), *GOOD[1:]), "kv: wanted stride 1 in the last dimension, got 8"),
    ((KV, i32([3, 4]), *GOOD[2:]), r"kv_len: wanted shape \[1\], got \[2\]"),
    ((KV, torch.tensor([3]), *GOOD[2:]), "kv_len: wanted Int, got Long"),
    ((KV, GOOD[1], torch.tensor([[0, 2]]), GOOD[3]), "path: wanted Int, got Long"),
    ((KV, GOOD[1], i32([[0, 2], [0, 2]]), GOOD[3]), "path: wanted 1 rows"),
    ((KV, GOOD[1], i32([0, 2]), GOOD[3]), "path: wanted 2 dimensions, got 1"),
    ((KV.expand(2, -1, -1, -1, -1, -1), *GOOD[1:]), "kv: wanted every element in a place of its"),
    (
        (torch.zeros(320).as_strided(KV.shape, (1, 160, 160, 80, 7, 1)), *GOOD[1:]),
        r"kv: wanted every element in a place of its own, got strides \[1, 160, 160, 80, 7, 1\]",
    ),
    ((KV, i32([11]), *GOOD[2:]), r"kv_len\[0\]: wanted at most 10 \(S\), got 11"),
    ((KV, GOOD[1], GOOD[2].to("meta"), GOOD[3]), "path: wanted device cpu .as kv., got meta"),
    ((*GOOD[:3], i32([3])), r"path_len\[0\]: wanted 0..2, got 3"),
    ((*GOOD[:3], i32([-1])), r"path_len\[0\]: wanted 0..2, got -1"),
    ((KV, i32([-1]), *GOOD[2:]), r"kv_len\[0\]: wanted 0 or more, got -1"),
    ((KV, GOOD[1], i32([[0, 7]]), GOOD[3]), r"path\[0, 1\]: wanted less than 7"),
    ((KV, GOOD[1], i32([[2, 2]]), GOOD[3]), r"path\[0, 1\]: wanted more than 2, got 2"),
    ((KV, GOOD[1], i32([[-1, 2]]), GOOD[3]), r"path\[0, 0\]: wanted more than -1, got -1"),
]


@pytest.mark.parametrize("name", ["kv_len", "path", "path_len"])
def test_an_argument_that_lies_in_the_slab_is_refused(device: torch.device, name: str):
    """Its bytes would move while they say where to."""
    kv = torch.zeros(1, 2, 1, 1, 8, 4, dtype=torch.int32, device=device)
    args = {"kv_len": i32([2], device), "path": i32([[0, 3]], device), "path_len": i32([2], device)}
    args[name] = kv.flatten()[: args[name].numel()].view(args[name].shape)
    with pytest.raises(RuntimeError, match=f"{name}: wanted memory apart from that of kv, got"):
        ops.kv_compact_(kv, **args)


def test_the_lengths_are_no_input_too(device: torch.device):
    both = i32([2, 2], device)
    kv, path = torch.zeros(1, 2, 2, 1, 8, 4, device=device), i32([[0, 3]] * 2, device)
    with pytest.raises(RuntimeError, match="path_len: wanted memory apart from that of kv_len"):
        ops.kv_compact_(kv, both, path, both)
    # Side by side is apart.
    whole = i32([2, 2, 1, 1], device)
    ops.kv_compact_(kv, whole[:2], path, whole[2:])
    assert whole.tolist() == [3, 3, 1, 1]


@pytest.mark.parametrize("args, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(args: tuple[Tensor, ...], message: str):
    before = KV.clone()
    with pytest.raises(RuntimeError, match=message):
        ops.kv_compact_(*args)
    assert torch.equal(KV, before)
