"""The models whose shapes are timed on a GPU, and what the ops are to reach there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """What a figure of a case is to reach: `figure` is a key of `bench.ops.cuda_run.figures`."""

    figure: str
    wanted: float
    at_least: bool


@dataclass(frozen=True)
class Model:
    name: str
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    dim: int = 128


LLAVA_7B = Model("LLaVA-7B", 32, 32, 32, 32064)
LLAVA_13B = Model("LLaVA-13B", 40, 40, 40, 32064)
QWEN_7B = Model("Qwen2.5-VL-7B", 28, 28, 4, 152064)


def at_least(figure: str, wanted: float) -> Goal:
    return Goal(figure, wanted, True)


def at_most(figure: str, wanted: float) -> Goal:
    return Goal(figure, wanted, False)


THRICE_SDPA = at_least("x sdpa", 3)
ARITHMETIC_BOUND = (at_most("floors", 1.5), THRICE_SDPA)

# By op and name of the case; `bench.ops.cuda_run.figures` says what the figures are.
TARGETS: dict[tuple[str, str], Sequence[Goal]] = {
    ("tree_attention", "LLaVA-7B N=60 S=700"): (at_most("us", 8),),
    ("tree_attention", "LLaVA-7B N=60 S=4096"): (at_least("of copy", 0.80), THRICE_SDPA),
    ("tree_attention", "LLaVA-7B N=60 S=32768"): (at_least("of copy", 0.88), THRICE_SDPA),
    ("tree_attention", "Qwen2.5-VL-7B N=60 S=4096"): ARITHMETIC_BOUND,
    ("tree_attention", "Qwen2.5-VL-7B N=60 S=32768"): ARITHMETIC_BOUND,
    ("kv_compact_", "LLaVA-7B moved=5"): (at_most("us", 6),),
    ("tree_accept", "V=152064 N=60 T=0"): (at_most("us", 15),),
    ("tree_accept", "V=152064 N=60 T=1 p=0.9"): (at_most("us", 40),),
    # What their instructions, launches and barriers add up to: docs/performance.md counts them.
    ("tree_grow_", "K=10 V=152064 T=1"): (at_most("us", 15),),
    ("tree_prune", "K=10 depth=7 N=60"): (at_most("us", 5),),
}
