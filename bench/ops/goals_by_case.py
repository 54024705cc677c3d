"""The models whose sizes are timed on a GPU, and what the ops are to reach there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.common.goals import Goal, at_least, at_most


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a language model; ``dim`` is that of a head."""

    name: str
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    dim: int = 128


LLAVA_7B = ModelSizes("LLaVA-7B", 32, 32, 32, 32064)
LLAVA_13B = ModelSizes("LLaVA-13B", 40, 40, 40, 32064)
QWEN_7B = ModelSizes("Qwen2.5-VL-7B", 28, 28, 4, 152064)

THRICE_SDPA = at_least("x sdpa", 3)
ARITHMETIC_BOUND = (at_most("floors", 1.5), THRICE_SDPA)

#: By op and name of the case; `bench.ops.cuda_run.figures` says what the figures are.
GOALS: dict[tuple[str, str], Sequence[Goal]] = {
    ("tree_attention", "LLaVA-7B N=60 S=700"): (at_most("us", 8),),
    ("tree_attention", "LLaVA-7B N=60 S=4096"): (at_least("of copy", 0.80), THRICE_SDPA),
    ("tree_attention", "LLaVA-7B N=60 S=32768"): (at_least("of copy", 0.88), THRICE_SDPA),
    ("tree_attention", "Qwen2.5-VL-7B N=60 S=4096"): ARITHMETIC_BOUND,
    ("tree_attention", "Qwen2.5-VL-7B N=60 S=32768"): ARITHMETIC_BOUND,
    ("kv_compact_", "LLaVA-7B moved=5"): (at_most("us", 6),),
    ("tree_accept", "V=152064 N=60 T=0"): (at_most("us", 15),),
    ("tree_accept", "V=152064 N=60 T=1 p=0.9"): (at_most("us", 40),),
    # The sum of their instructions, launches and barriers, counted in docs/performance.md.
    ("tree_grow_", "K=10 V=152064 T=1"): (at_most("us", 15),),
    ("tree_prune", "K=10 depth=7 N=60"): (at_most("us", 5),),
}
