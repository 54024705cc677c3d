"""The prompts of the headline benchmark, and of others that run the bundled ones."""

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
class BenchPrompt:
    """A prompt of a benchmark, as token ids and pixels, and the group that its rows belong to."""

    name: str
    inputs: Inputs
    group: str = ALL


def load_prompts(options: argparse.Namespace, processor: PromptProcessor) -> list[BenchPrompt]:
    """The prompts that the command line asks for.

    Raises:
        HivisError: options that do not go together, or a prompt that cannot be read.
    """
    if options.image and options.prompt is None:
        raise HivisError("--image: wanted a --prompt to go with it, got none")
    if options.prompts and options.prompt is not None:
        raise HivisError("--prompts: wanted either a file or a --prompt, got both")
    if options.prompt is not None:
        return [BenchPrompt("prompt", processor(options.prompt, options.image))]
    if options.prompts:
        count = options.count * (1 + SHORT_PER_LONG) if options.compare else options.count
        prompts = _read_prompts(options.prompts, processor, count, options.compare)
        if not prompts:
            raise HivisError(f"--prompts {options.prompts}: wanted at least one prompt, got none")
        return prompts
    if options.compare:
        short_per_long = 1 if options.quick else SHORT_PER_LONG
        return bundled_prompts(
            mixed(held_out_prompts(), options.count, short_per_long), processor, True
        )
    return bundled_prompts(long_ones(held_out_prompts(), options.count), processor)


def bundled_prompts(
    items: Sequence[HeldOutPrompt], processor: PromptProcessor, grouped: bool = False
) -> list[BenchPrompt]:
    """Held-out prompts, ready to run; ``grouped`` tells long answers from short ones."""
    return [
        BenchPrompt(
            item.id,
            processor(item.prompt, [item.image] if item.image else []),
            item.kind if grouped else ALL,
        )
        for item in items
    ]


def long_ones(items: Sequence[HeldOutPrompt], count: int) -> list[HeldOutPrompt]:
    """The first ``count`` prompts for long answers."""
    return [item for item in items if item.kind == "long"][:count]


def mixed(items: Sequence[HeldOutPrompt], count: int, short_per_long: int) -> list[HeldOutPrompt]:
    """``count`` prompts for long answers, each followed by some prompts for short ones.

    Short questions go through the images, and from image to image through their topics. Long
    and short ones take turns, so that a machine that slows down slows both.
    """
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
    for item in long_ones(items, count):
        chosen.append(item)
        chosen += [next(short) for _ in range(short_per_long)]
    return chosen


def _read_prompts(
    path: Path, processor: PromptProcessor, count: int, grouped: bool
) -> list[BenchPrompt]:
    """Lines of ``{"prompt": ..., "image": ...}``; paths are relative to the file's folder."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HivisError(f"--prompts {path}: cannot be read ({error})") from None
    prompts: list[BenchPrompt] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if len(prompts) == count:
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
        prompts.append(BenchPrompt(f"{path.name}:{number}", processor(prompt, images), group))
    return prompts
