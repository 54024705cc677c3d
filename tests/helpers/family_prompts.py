"""Prompts for the checkpoints of every family."""

from __future__ import annotations

from typing import Any

import torch

from hivis.core.target import Inputs
from hivis.models.processor import PromptProcessor
from hivis.models.target import HuggingFaceTarget
from tests.helpers.families import RECIPES, images

FAMILIES = list(RECIPES)
TURNS = [
    ("user", "<image>What is this?"),
    ("assistant", "A cat."),
    ("user", "And <image> this, next to <image>?"),
]
#: What is asked, and how many images with it.
PROMPTS = {"none": 0, "one": 1, "three": 3, "turns": 3, "side by side": 2}


def ask(processor: PromptProcessor, prompt: str, seed: int = 0) -> Inputs:
    shown = images(PROMPTS[prompt], seed)
    if prompt == "turns":
        return processor.conversation(TURNS, shown)
    if prompt == "side by side":
        slot = processor.image_token
        return processor(f"Look: {slot}{slot} Which is it?", shown)
    return processor("What is this?", shown)


def asked_of(target: HuggingFaceTarget, inputs: Inputs) -> dict[str, Any]:
    """The prompt as the model's own forward takes it."""
    return {
        "input_ids": inputs.tokens,
        "attention_mask": torch.ones_like(inputs.tokens),
        **inputs.features,
        **target.family.token_features(target.model, inputs.tokens),
    }
