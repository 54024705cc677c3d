"""The entries of a cache: all are declared, and the table says where they are written and read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hivis.core import cache_entries
from hivis.core.cache_entries import CacheEntry, declare_entry, entry_of
from hivis.core.kv_cache import KVCache
from hivis.errors import HivisError

HIVIS = Path(__file__).resolve().parents[2] / "hivis"
STATE = CacheEntry("state", ("B", "E"), None, "of a recurrent drafter", "outside", "outside")


def cache() -> KVCache:
    return KVCache(1, 1, 2, 4, 8, torch.float32, "cpu")


@pytest.fixture
def own_entry() -> Iterator[None]:
    declare_entry(STATE)
    yield
    del cache_entries._ENTRIES[STATE.name]


def test_what_is_not_declared_is_refused():
    with pytest.raises(
        HivisError, match="^cache entry: wanted one of token, seen, .*, got 'tokne'"
    ):
        cache().set_entry("tokne", torch.zeros(1, dtype=torch.int64))
    with pytest.raises(
        HivisError, match=r"^cache entry token: wanted \[B\] torch.int64, got \[1\]"
    ):
        cache().set_entry("token", torch.zeros(1, dtype=torch.int32))
    with pytest.raises(HivisError, match=r"^cache entry logits: wanted \[B, V\] of any dtype, got"):
        cache().set_entry("logits", torch.zeros(1, 1, 9))


def test_a_drafter_from_outside_declares_its_own(own_entry):
    declare_entry(STATE)  # the same once more is nothing new
    with pytest.raises(HivisError, match="^cache entry: wanted a name of its own, got state again"):
        declare_entry(CacheEntry("state", ("B",), None, "another", "outside", "outside"))
    alone = cache()
    alone.set_entry("state", torch.arange(3.0).unsqueeze(0))
    several = alone.for_sequences(2, 4)
    for index in range(2):
        several.copy_sequence(index, alone)
    assert several.entries["state"].tolist() == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("entry", cache_entries._ENTRIES.values(), ids=lambda entry: entry.name)
def test_the_table_names_the_modules(entry: CacheEntry):
    for said in (entry.written_by, entry.read_by):
        named = re.findall(r"\b[a-z]+\.[a-z_]+\b", said)
        assert named and all((HIVIS / (name.replace(".", "/") + ".py")).is_file() for name in named)


def test_every_module_that_writes_or_reads_an_entry_is_in_the_table():
    found = set()
    for path in HIVIS.rglob("*.py"):
        module = ".".join(path.relative_to(HIVIS).with_suffix("").parts)
        text = path.read_text()
        for pattern, field in (
            (r"set_entry\(\s*\"(\w+)\"", "written_by"),
            (r"\bentries\[\"(\w+)\"\]", "read_by"),
        ):
            for name in re.findall(pattern, text):
                found.add(name)
                assert module in getattr(entry_of(name), field), (module, name, field)
    assert {"token", "seen", "offset", "output", "gap", "bias", "logits"} <= found
