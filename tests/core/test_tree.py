"""Ancestors of tree nodes as bits of 64-bit words."""

from __future__ import annotations

import pytest
import torch

from hivis.core.tree import pack_bits, unpack_bits


@pytest.mark.parametrize("nodes", [1, 63, 64, 65, 200])
def test_bits_come_back(nodes: int) -> None:
    member = torch.rand(2, 3, nodes) < 0.4
    words = pack_bits(member, -(-nodes // 64))
    assert torch.equal(unpack_bits(words, nodes), member)
