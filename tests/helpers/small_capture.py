"""A capture of eleven answers of a small LLaVA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hivis.core.target import Inputs
from hivis.models.families.llava import Llava
from hivis.training.data.answers import Answerer
from hivis.training.data.capture import CaptureReport, CaptureSettings, write_capture
from hivis.training.data.samples import Columns
from tests.helpers.small_llava import random_inputs, random_llava

ALL = Columns("all", images=True, seen=True)
SOURCES = {"data": "d", "target": "t"}
#: 11 prompts in batches of 2 and shards of 4: the last of each is not full.
PROMPTS = range(11)
SMALL = CaptureSettings(columns=ALL, max_new_tokens=4, batch=2, shard=4)


def prompt(seed: int) -> Inputs:
    return random_inputs(seed, text=6 + seed % 4, images=seed % 3)


def answerer(prepare: Callable[[int], Inputs] = prompt, **more: Any) -> Answerer[int]:
    return Answerer(random_llava(), Llava(), prepare, lambda seed: seed // 2, **more)


def run(folder: Path, chosen: CaptureSettings = SMALL, **more: Any) -> CaptureReport:
    return write_capture(folder, answerer(**more), PROMPTS, chosen, SOURCES, progress=False)
