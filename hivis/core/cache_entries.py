"""What a cache keeps of each sequence beside its rows: all entries, who writes and who reads them.

An entry is a tensor ``[B, ...]`` with a part for each sequence, so a sequence takes its own along
when it joins others or leaves them. A cycle reads entries and writes them in place
(:meth:`hivis.core.kv_cache.KVCache.set_entry`), which is why a captured cycle can be replayed for
another sequence. Target and drafter have a cache each, with its own entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hivis.errors import HivisError


@dataclass(frozen=True)
class CacheEntry:
    """One entry.

    Attributes:
        name: its key in ``KVCache.entries``.
        shape: the letters of ``docs/design.md``.
        dtype: ``None`` if it is the dtype of the model's own tensors.
        meaning: what it is.
        written_by, read_by: the modules of ``hivis`` that do.
    """

    name: str
    shape: tuple[str, ...]
    dtype: torch.dtype | None
    meaning: str
    written_by: str
    read_by: str

    def check(self, value: Tensor) -> None:
        """HivisError unless ``value`` has the entry's rank and dtype."""
        fits = self.dtype is None or value.dtype == self.dtype
        if value.dim() != len(self.shape) or not fits:
            wanted = f"[{', '.join(self.shape)}] {self.dtype or 'of any dtype'}"
            raise HivisError(
                f"cache entry {self.name}: wanted {wanted}, got {list(value.shape)} {value.dtype}"
            )


_ENTRIES: dict[str, CacheEntry] = {}


def declare_entry(entry: CacheEntry) -> CacheEntry:
    """Let caches hold ``entry``. A drafter from outside declares those that it keeps.

    Raises:
        HivisError: there is another entry of this name.
    """
    if _ENTRIES.setdefault(entry.name, entry) != entry:
        raise HivisError(f"cache entry: wanted a name of its own, got {entry.name} again")
    return entry


def entry_of(name: str) -> CacheEntry:
    """The declared entry of this name; HivisError lists those that there are."""
    if name not in _ENTRIES:
        raise HivisError(f"cache entry: wanted one of {', '.join(_ENTRIES)}, got {name!r}")
    return _ENTRIES[name]


_PREFILL = "engine.running_batch"
_DRAWS = "core.sampling, for engine.cycle and the drafters"
_INT64, _INT32, _FLOAT32 = torch.int64, torch.int32, torch.float32

for _entry in (
    # In the cache of a target.
    CacheEntry(
        "token",
        ("B",),
        _INT64,
        "the last emitted token: the root of the next tree",
        f"{_PREFILL}, then engine.cycle",
        "engine.cycle",
    ),
    CacheEntry(
        "seen",
        ("B", "V"),
        torch.bool,
        "which tokens prompt and output hold, for the repetition penalty",
        f"{_PREFILL}, then core.sampling",
        "core.sampling",
    ),
    CacheEntry("seed", ("B",), _INT64, "of the shared noise", _PREFILL, _DRAWS),
    CacheEntry("temperature", ("B",), _FLOAT32, "0: greedy", _PREFILL, _DRAWS),
    CacheEntry("top_k", ("B",), _INT32, "0: all tokens", _PREFILL, _DRAWS),
    CacheEntry("top_p", ("B",), _FLOAT32, "1: all tokens", _PREFILL, _DRAWS),
    CacheEntry("min_p", ("B",), _FLOAT32, "0: all tokens", _PREFILL, _DRAWS),
    CacheEntry("penalty", ("B",), _FLOAT32, "of repetitions; 1: none", _PREFILL, _DRAWS),
    # In the cache of a target, and in that of a draft model.
    CacheEntry(
        "offset",
        ("B", "1"),
        _INT64,
        "largest position of the prompt + 1 - its rows; 0 or less, as an image may have fewer "
        "positions than rows",
        "models.decoder, at a prefill",
        "models.decoder",
    ),
    # In the cache of a one-layer drafter.
    CacheEntry(
        "output",
        ("B", "E"),
        None,
        "the layer's output at the last row, from which the next tree grows",
        "drafters.one_layer, at a prefill and a commit",
        "drafters.one_layer",
    ),
    CacheEntry(
        "gap",
        ("B", "1"),
        _INT32,
        "how far the positions of rows behind the prompt are ahead of the rows, where prompt rows "
        "were hidden or compressed",
        "drafters.one_layer, at a prefill",
        "drafters.one_layer",
    ),
    CacheEntry(
        "bias",
        ("B", "1", "E"),
        None,
        "what the global feature of the last image adds to every row",
        "drafters.vispec, at a prefill",
        "drafters.vispec",
    ),
    # In the cache of a draft model.
    CacheEntry(
        "logits",
        ("B", "V"),
        None,
        "after the last row, from which the next tree grows",
        "drafters.draft_vlm, at a prefill and a commit",
        "drafters.draft_vlm",
    ),
):
    declare_entry(_entry)
