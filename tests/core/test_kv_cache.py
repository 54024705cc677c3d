"""A cache of several sequences, which join, leave and change places."""

from __future__ import annotations

import random

import pytest
import torch

from hivis.core.kv_cache import KVCache


@pytest.mark.parametrize("seed", range(20))
def test_a_cache_of_several_keeps_each_sequence(seed: int) -> None:
    """Random additions and removals against a list of sequences, with NaN in rows never written."""
    make, most = random.Random(seed), 4

    def sequence() -> KVCache:
        rows = make.randint(1, 9)
        cache = KVCache(2, 1, 3, rows + make.randint(0, 4), 8, torch.float32, "cpu")
        cache.kv.normal_()
        cache.kv_len.fill_(rows)
        cache.set_entry("offset", torch.randint(-9, 1, (1, 1)))
        cache.set_entry("output", torch.randn(1, 5))
        return cache

    cache = sequence().for_sequences(most, 13)
    cache.kv.fill_(float("nan"))
    held: list[KVCache] = []
    for _ in range(40):
        place = make.randint(0, len(held))
        if place < most and make.random() < 0.6:
            held[place : place + 1] = [sequence()]
            cache.copy_sequence(place, held[place])
        elif held:
            place = make.randrange(len(held))
            cache.remove_sequence(place)
            held[place] = held[-1]
            held.pop()
        if make.random() < 0.1:
            cache = cache.resized(most, 13 + make.randint(0, 3))
        assert cache.batch_size == len(held) == len(cache.kv_len) == cache.kv.shape[2]
        for number, one in enumerate(held):
            rows = int(one.kv_len)
            assert int(cache.kv_len[number]) == rows
            for layer in range(2):
                kept = cache.keys[layer][number, :, :rows], cache.values[layer][number, :, :rows]
                assert torch.equal(kept[0], one.kv[layer, 0, 0, :, :rows])
                assert torch.equal(kept[1], one.kv[layer, 1, 0, :, :rows])
            for name, entry in one.entries.items():
                assert torch.equal(cache.entries[name][number], entry[0])
