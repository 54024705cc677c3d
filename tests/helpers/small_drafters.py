"""Small untrained drafters of every kind, and the small targets that they draft for."""

from __future__ import annotations

import random
from typing import Any

from hivis.core.drafter import Drafter
from hivis.core.sampling import SamplingParams
from hivis.drafters.checkpoint import HiViSConfig, ViSpecConfig, random_tensors
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.vispec import ViSpecDrafter
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.models.target import HuggingFaceTarget
from hivis.policies.fixed import FixedPolicy
from tests.helpers import families
from tests.helpers.draft_models import bound, draft_model
from tests.helpers.small_llava import VOCAB, random_inputs, random_target

#: What a drafter of the small LLaVA has to have; its own sizes are as small.
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
}
FAMILY_SIZES = SIZES | {"hidden_size": families.HIDDEN, "vocab_size": families.VOCAB}
KINDS = ("hivis", "vispec", "draft-vlm")


def hivis_drafter(sizes: dict[str, int] = SIZES, seed: int = 1, **more: Any) -> HiViSDrafter:
    """``more``: further fields of its config."""
    config = HiViSConfig(**sizes, **more)
    return HiViSDrafter(config, random_tensors(config, seed=seed, scale=0.2))


def eagle_drafter(sizes: dict[str, int] = SIZES) -> HiViSDrafter:
    return hivis_drafter(sizes, rows="all", residual_rows=0)


def vispec_drafter(sizes: dict[str, int] = SIZES, queries: int = 3) -> ViSpecDrafter:
    config = ViSpecConfig(**sizes, queries=queries)
    return ViSpecDrafter(config, random_tensors(config, seed=1, scale=0.2))


def family_drafters() -> dict[str, Any]:
    """One of each kind with one layer, for any of the families' checkpoints."""
    return {
        "hivis": hivis_drafter(FAMILY_SIZES),
        "hivis, original": hivis_drafter(
            FAMILY_SIZES, positions="original", hide_before=1, hide_after=1, attention_bias=True
        ),
        "eagle": eagle_drafter(FAMILY_SIZES),
        "vispec": vispec_drafter(FAMILY_SIZES),
    }


def pair(kind: str, device: str = "cpu") -> tuple[HuggingFaceTarget, Drafter]:
    """A target and a drafter with caches of their own."""
    target = random_target(device=device)
    if kind == "draft-vlm":
        return target, bound(draft_model("vlm", device=device))
    return target, vispec_drafter() if kind == "vispec" else hivis_drafter()


def check_sequences(
    target: HuggingFaceTarget, drafter: Drafter, temperature: float, name: str
) -> None:
    """Sequences with trees of random sizes, drawn from ``name``, are those of plain decoding."""
    make = random.Random(name)
    for seed in range(4):
        inputs = random_inputs(seed, text=5 + 4 * seed, images=seed % 3)
        params = SamplingParams(temperature=temperature, seed=seed, max_new_tokens=40)
        plain = generate(Engine(target), inputs, params)
        depth, top_k = make.randint(1, 7), make.randint(1, 8)
        most = 1 + top_k + (depth - 1) * top_k * top_k
        policy = FixedPolicy(make.randint(2, min(60, most)), depth, top_k)
        drafted = generate(Engine(target, drafter, policy), inputs, params)
        assert drafted.tokens == plain.tokens, policy
