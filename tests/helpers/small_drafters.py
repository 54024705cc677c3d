"""Random small targets with each kind of drafter, untrained."""

from __future__ import annotations

import random

from hivis.core.drafter import Drafter
from hivis.core.sampling import SamplingParams
from hivis.drafters.checkpoint import HiViSConfig, ViSpecConfig, random_tensors
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.vispec import ViSpecDrafter
from hivis.engine.generate import generate
from hivis.models.target import HuggingFaceTarget
from hivis.policies.fixed import FixedPolicy
from tests.drafters.test_draft_vlm import bound, draft_model
from tests.helpers.small_llava import VOCAB, random_inputs, random_target

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
}
KINDS = ("hivis", "vispec", "draft-vlm")


def pair(kind: str, device: str = "cpu") -> tuple[HuggingFaceTarget, Drafter]:
    target = random_target(device=device)
    if kind == "draft-vlm":
        return target, bound(draft_model("vlm", device=device))
    if kind == "vispec":
        config = ViSpecConfig(**SIZES, queries=3)
        return target, ViSpecDrafter(config, random_tensors(config, seed=1, scale=0.2))
    sizes = HiViSConfig(**SIZES)
    return target, HiViSDrafter(sizes, random_tensors(sizes, seed=1, scale=0.2))


def check_texts(target: HuggingFaceTarget, drafter: Drafter, temperature: float, name: str) -> None:
    """Texts with trees of random sizes, drawn from ``name``, are those of plain decoding."""
    make = random.Random(name)
    for seed in range(4):
        inputs = random_inputs(seed, text=5 + 4 * seed, images=seed % 3)
        params = SamplingParams(temperature=temperature, seed=seed, max_new_tokens=40)
        plain = generate(target, inputs, params)
        depth, top_k = make.randint(1, 7), make.randint(1, 8)
        most = 1 + top_k + (depth - 1) * top_k * top_k
        policy = FixedPolicy(make.randint(2, min(60, most)), depth, top_k)
        assert generate(target, inputs, params, drafter, policy).tokens == plain.tokens, policy
