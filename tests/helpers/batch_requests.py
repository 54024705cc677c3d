"""Requests of all kinds for a batch, and what each of them gives alone."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from hivis.core.sampling import SamplingParams
from hivis.engine.batch import BatchRequest
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.models.target import HuggingFaceTarget
from hivis.policies.fixed import FixedPolicy
from tests.helpers.draft_models import bound, draft_model
from tests.helpers.small_drafters import eagle_drafter, hivis_drafter, vispec_drafter
from tests.helpers.small_llava import VOCAB, random_inputs, random_target

POLICY = FixedPolicy(nodes=10, depth=4, top_k=3)


@cache
def target() -> HuggingFaceTarget:
    return random_target()


@cache
def drafter(kind: str) -> Any:
    if kind == "none":
        return None
    if kind.startswith("draft"):
        return bound(draft_model("text" if kind == "draft text" else "vlm"))
    if kind == "original":
        return hivis_drafter(positions="original", hide_before=1, hide_after=1)
    return {"hivis": hivis_drafter, "eagle": eagle_drafter, "vispec": vispec_drafter}[kind]()


def request_of(number: int) -> BatchRequest[int]:
    """Requests of all kinds: other lengths, images, temperatures, penalties and ends."""
    make = random.Random(number)
    temperature = make.choice([0.0, 0.0, 0.7, 1.0])
    params = SamplingParams(
        temperature=temperature,
        top_k=make.choice([0, 30]),
        seed=make.choice([3, 8]),
        max_new_tokens=make.choice([1, 2, 9, 24, 40]),
        repetition_penalty=make.choice([1.0, 1.0, 1.3]),
        eos_token_ids=tuple(make.sample(range(VOCAB), make.choice([0, 12]))),
    )
    inputs = random_inputs(number, make.choice([3, 9, 31]), make.choice([0, 1, 2]))
    return BatchRequest(inputs, params, number)


@cache
def alone(number: int) -> tuple[int, ...]:
    """The tokens of plain decoding."""
    one = request_of(number)
    return generate(Engine(target()), one.inputs, one.params).tokens
