"""Capture the target's own answers: python -m hivis.tiny.capture --target DIR --out DIR

Each prompt is answered once; two captures of it are written. ``OUT/text`` is without a single
visual row, for the HiViS drafter; ``OUT/all`` keeps them, for the EAGLE-2 style one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.progress import track

from hivis.errors import HivisError, run_cli
from hivis.targets.base import Inputs
from hivis.targets.load import PromptProcessor, load_model
from hivis.tiny.prompts import training_prompts
from hivis.training.capture import CaptureSettings, capture, write_capture
from hivis.training.data import Sample


def prompts(processor: PromptProcessor, seed: int, count: int) -> Iterator[Inputs]:
    """Inputs of ``count`` prompts over training scenes, with a progress bar."""
    asked = training_prompts(seed, count)
    for picture, question in track(asked, description="answering", total=count):
        yield processor(question, [] if picture is None else [picture])


def without_picture(sample: Sample, image_token: int) -> Sample:
    """The same sample with its visual rows left out."""
    keep = sample.tokens != image_token
    return Sample(
        sample.tokens[keep], sample.hidden[keep], sample.answer[keep], sample.greedy, None
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if any(options.out.rglob("shard-*.safetensors")):
        raise HivisError(f"--out: wanted a folder without shards, got {options.out}")
    model = load_model(options.target, torch.bfloat16, options.device)
    processor = PromptProcessor.load(options.target, model)
    settings = CaptureSettings(rows="all", seed=options.seed)
    asked = prompts(processor, options.seed, options.count)
    samples = list(capture(model, asked, settings))
    image_token: int = model.config.image_token_id
    write_capture(options.out / "all", samples, "all")
    text = (without_picture(sample, image_token) for sample in samples)
    write_capture(options.out / "text", text, "text")
    print(f"{len(samples)} answers in {options.out}")


if __name__ == "__main__":
    run_cli(main)
