"""Processors that look at videos too, as Qwen's and SmolVLM's checkpoints have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hivis.core.sampling import SamplingParams
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.models.load import load_target
from hivis.policies.fixed import FixedPolicy
from tests.helpers.families import RECIPES, config_of, sharp_model
from tests.helpers.family_prompts import PROMPTS, ask, asked_of
from tests.helpers.small_drafters import family_drafters

pytest.importorskip("torchvision", reason="wants torchvision", exc_type=ImportError)

from transformers import (  # noqa: E402 (not to be had without it)
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

KINDS = ["qwen2_5_vl", "qwen2_vl", "smolvlm"]
POLICY = FixedPolicy(nodes=12, depth=4, top_k=3)


def own_processor(kind: str, tokenizer: Any) -> Any:
    template = RECIPES[kind].template
    if kind == "smolvlm":
        sizes = dict(size={"longest_edge": 48}, max_image_size={"longest_edge": 16})
        return SmolVLMProcessor(
            SmolVLMImageProcessor(**sizes, do_image_splitting=True),
            tokenizer,
            SmolVLMVideoProcessor(**sizes),
            image_seq_len=4,
            chat_template=template,
        )
    kinds = {"qwen2_5_vl": Qwen2_5_VLProcessor, "qwen2_vl": Qwen2VLProcessor}
    sizes = dict(
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 64, "longest_edge": 2400},
    )
    return kinds[kind](
        Qwen2VLImageProcessor(**sizes),
        tokenizer,
        Qwen2VLVideoProcessor(**sizes),
        chat_template=template,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_with_its_own_processor(kind: str, tmp_path: Path) -> None:
    if kind == "smolvlm":
        pytest.importorskip("num2words", reason="wants num2words")
    tokenizer = RECIPES[kind].tokenizer()
    processor = own_processor(kind, tokenizer)
    sharp_model(config_of(kind, tokenizer)).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    target, prompts = load_target(tmp_path)
    assert type(prompts.processor) is type(processor)
    for prompt in PROMPTS:
        inputs = ask(prompts, prompt)
        theirs = target.model.generate(
            **asked_of(target, inputs), max_new_tokens=24, do_sample=False
        )
        params = SamplingParams(max_new_tokens=24)
        plain = generate(Engine(target), inputs, params).tokens
        assert list(plain) == theirs[0, inputs.length :].tolist()
        for name, drafter in family_drafters().items():
            assert generate(Engine(target, drafter, POLICY), inputs, params).tokens == plain, name
