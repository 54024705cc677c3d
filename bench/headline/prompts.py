"""The prompts of a latency run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hivis.bundled.prompts import HeldOutPrompt, held_out_prompts
from hivis.core.target import Inputs
from hivis.errors import HivisError
from hivis.models.processor import PromptProcessor

#: The group of prompts that are not told apart, and of all groups taken together.
ALL = "all"
SHORT_PER_LONG = 2


@dataclass(frozen=True)
class Case:
    """A prompt of the benchmark."""

    name: str
    inputs: Inputs
    group: str = ALL


def load_cases(options: argparse.Namespace, processor: PromptProcessor) -> list[Case]:
    """The prompts to run, ready as token ids and pixels; HivisError for any that is bad."""
    if options.image and options.prompt is None:
        raise HivisError("--image: wanted a --prompt to go with it, got none")
    if options.prompts and options.prompt is not None:
        raise HivisError("--prompts: wanted either a file or a --prompt, got both")
    if options.prompt is not None:
        return [Case("prompt", processor(options.prompt, options.image))]
    if options.prompts:
        count = options.count * (1 + SHORT_PER_LONG) if options.compare else options.count
        cases = _read_prompts(options.prompts, processor, count, options.compare)
        if not cases:
            raise HivisError(f"--prompts {options.prompts}: wanted at least one prompt, got none")
        return cases
    if options.compare:
        chosen = mixed(held_out_prompts(), options.count, 1 if options.quick else SHORT_PER_LONG)
    else:
        chosen = [item for item in held_out_prompts() if item.kind == "long"][: options.count]
    return [
        Case(
            item.id,
            processor(item.prompt, [item.image] if item.image else []),
            item.kind if options.compare else ALL,
        )
        for item in chosen
    ]


def mixed(items: Sequence[HeldOutPrompt], count: int, short_per_long: int) -> list[HeldOutPrompt]:
    """``count`` prompts for long answers and some short ones after each of them.

    Short questions go through the images, and from image to image through their topics. Long
    and short ones take turns, so that a machine that slows down slows both.
    """
    long = [item for item in items if item.kind == "long"][:count]
    by_image: dict[Path, list[HeldOutPrompt]] = {}
    for item in items:
        if item.kind == "short":
            by_image.setdefault(item.image, []).append(item)
    images = list(by_image.values())
    rounds = max((len(asked) for asked in images), default=0)
    short: Iterator[HeldOutPrompt] = (
        asked[(place + turn) % len(asked)]
        for turn in range(rounds)
        for place, asked in enumerate(images)
    )
    chosen = []
    for item in long:
        chosen.append(item)
        chosen += [next(short) for _ in range(short_per_long)]
    return chosen


def _read_prompts(path: Path, processor: PromptProcessor, count: int, grouped: bool) -> list[Case]:
    """Lines of ``{"prompt": ..., "image": ...}``: paths are seen from the file's folder."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HivisError(f"--prompts {path}: cannot be read ({error})") from None
    cases: list[Case] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if len(cases) == count:
            break
        try:
            entry = json.loads(line)
            prompt, images = str(entry["prompt"]), entry.get("image") or []
            images = [images] if isinstance(images, str) else images
            images = [path.parent / image for image in images]
            group = str(entry.get("group") or ALL) if grouped else ALL
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise HivisError(
                f'{path}:{number}: wanted a JSON object with "prompt" and "image", got {line[:60]}'
            ) from None
        cases.append(Case(f"{path.name}:{number}", processor(prompt, images), group))
    return cases
