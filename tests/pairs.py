"""Random small targets with each kind of drafter, untrained."""

from __future__ import annotations

from models import VOCAB, random_target
from test_draft_vlm import bound, draft_model

from hivis.drafters.base import Drafter
from hivis.drafters.checkpoint import HiViSConfig, ViSpecConfig, random_tensors
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.vispec import ViSpecDrafter
from hivis.targets.hugging_face import HuggingFaceTarget

SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "vocab_size": VOCAB,
}  # fmt: skip
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
