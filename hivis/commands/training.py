"""``hivis train`` and ``hivis capture``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from hivis.errors import HivisError

METHODS = ("hivis", "vispec", "eagle", "draft-vlm")


def add_capture(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_capture)
    add = parser.add_argument
    add("--method", required=True, nargs="+", choices=METHODS, help="what the answers shall serve")
    add("--target", required=True, help="folder or hub name of the VLM")
    add("--data", required=True, type=Path, help="conversations in LLaVA's format")
    add("--out", required=True, type=Path, help="folder for the answers; goes on if it has some")
    _add_machine(parser)
    _add_answers(parser)


def add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_train)
    add = parser.add_argument
    add("--method", required=True, choices=METHODS)
    add("--target", required=True, help="folder or hub name of the VLM to draft for")
    add(
        "--data", required=True, type=Path,
        help="conversations in LLaVA's format (.jsonl or .json), or a folder of captured answers",
    )  # fmt: skip
    add("--out", required=True, type=Path, help="folder for the drafter")
    add("--resume", action="store_true", help="go on with a run that was stopped, exactly")
    _add_machine(parser)
    _add_answers(parser)
    add = parser.add_argument_group("training").add_argument
    add("--draft", type=Path, help="draft-vlm: folder of the model to start from")
    add("--updates", type=int, default=4000, help="of all stages together")
    add("--batch", type=int, default=16, help="answers in an update")
    add("--lr", type=float, help="peak learning rate (default: the method's)")
    add("--soft", type=float, default=0.1, help="weight of the soft cross entropy")
    add(
        "--noise", type=float, default=0.1,
        help="uniform noise on hidden states, as a part of their size",
    )  # fmt: skip
    add(
        "--residual-rows", type=int,
        help="learned vectors of the drafting steps (default: 3 for hivis, 0 for eagle)",
    )  # fmt: skip
    add("--held-out", type=int, default=64, help="answers that are only measured")
    add("--fp32", action="store_true", help="no autocast to bfloat16")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)


def _add_answers(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the target's answers").add_argument
    add("--images", type=Path, help="where image paths start (default: the data's folder)")
    add("--count", type=int, help="the first so many conversations (default: all)")
    add("--turns", type=int, default=1, help="questions asked of each conversation")
    add(
        "--sampled", type=float, default=0.5,
        help="share of answers sampled at temperature 1; the others are greedy",
    )  # fmt: skip
    add("--max-new-tokens", type=int, default=512)
    add("--answer-batch", type=int, default=16, help="prompts answered at a time")
    add(
        "--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16",
        help="of the target while it answers",
    )  # fmt: skip


def _capture(options: argparse.Namespace) -> None:
    from hivis.collect import CollectOptions, collect, columns_of

    _check(options)
    collect(_pick(CollectOptions, options), columns_of(options.method))


def _train(options: argparse.Namespace) -> None:
    from hivis.collect import CollectOptions
    from hivis.train import TrainOptions, train

    _check(options)
    for name, least in (("residual_rows", 0), ("lr", 0), ("soft", 0), ("noise", 0)):
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise HivisError(f"--{name.replace('_', '-')}: wanted at least {least}, got {value}")
    if (options.method == "draft-vlm") != (options.draft is not None):
        wanted = "a folder" if options.method == "draft-vlm" else f"none with {options.method}"
        raise HivisError(f"--draft: wanted {wanted}, got {options.draft}")
    train(_pick(TrainOptions, options), _pick(CollectOptions, options))


def _check(options: argparse.Namespace) -> None:
    positive = ("count", "turns", "max_new_tokens", "answer_batch", "updates", "batch", "held_out")
    for name in positive:
        value = getattr(options, name, None)
        if value is not None and value < 1:
            raise HivisError(f"--{name.replace('_', '-')}: wanted at least 1, got {value}")
    if not 0 <= options.sampled <= 1:
        raise HivisError(f"--sampled: wanted a share of 0 to 1, got {options.sampled}")


def _pick(kind: type[Any], options: argparse.Namespace) -> Any:
    """``kind`` from those options that are its fields."""
    names = [entry.name for entry in fields(kind)]
    return kind(**{name: getattr(options, name) for name in names})
