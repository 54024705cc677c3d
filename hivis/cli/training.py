"""``hivis train``, ``hivis capture`` and ``hivis draft-vocab``."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from hivis.drafters.registry import method_of, methods
from hivis.errors import HivisError, first_line
from hivis.training.options import CollectOptions, TrainOptions

#: Options of the answering, which make no sense with answers that are there already.
ANSWERING = ("images", "count", "turns", "sampled", "max_new_tokens", "answer_batch", "dtype")


TRAIN_EXAMPLES = """examples:
  python -m hivis train --method hivis --target llava-hf/llava-1.5-7b-hf \\
    --data llava_v1_5_mix665k.json --images images/ --out drafter --device cuda
  python -m hivis train --method vispec --target M --data answers/ --out drafter --resume"""
CAPTURE_EXAMPLES = """examples:
  python -m hivis capture --method hivis vispec --target llava-hf/llava-1.5-7b-hf \\
    --data llava_v1_5_mix665k.json --images images/ --out answers/ --device cuda"""

DRAFT_VOCAB_EXAMPLES = """examples:
  python -m hivis draft-vocab --target llava-hf/llava-1.5-7b-hf --data drafter/answers --out drafter
  python -m hivis generate --prompt "What is this?" --image cat.png --draft-vocab 8000 \\
    --model llava-hf/llava-1.5-7b-hf --drafter drafter"""


def add_capture(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_capture)
    parser.epilog = CAPTURE_EXAMPLES
    add = parser.add_argument
    names = [method.name for method in methods()]
    add("--method", required=True, nargs="+", choices=names, help="what the answers shall serve")
    add("--target", required=True, help="folder or hub name of the VLM")
    add("--data", required=True, type=Path, help="conversations in LLaVA's format")
    add("--out", required=True, type=Path, help="folder for the answers; goes on if it has some")
    add("--draft", help="draft-vlm: model whose own vision tower is to look, if it has one")
    _add_machine(parser)
    _add_answers(parser)


def add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_train)
    parser.epilog = TRAIN_EXAMPLES
    add = parser.add_argument
    trained = [method.name for method in methods() if method.learner is not None]
    add("--method", required=True, choices=trained)
    add("--target", required=True, help="folder or hub name of the VLM to draft for")
    add(
        "--data",
        required=True,
        type=Path,
        help="conversations in LLaVA's format (.jsonl or .json), or a folder of captured answers",
    )
    add("--out", required=True, type=Path, help="folder for the drafter")
    add("--resume", action="store_true", help="go on with a run that was stopped, exactly")
    _add_machine(parser)
    _add_answers(parser)
    add = parser.add_argument_group("training").add_argument
    add("--draft", help="draft-vlm: folder or hub name of the model to start from")
    add("--updates", type=int, default=4000, help="of all stages (default: %(default)s)")
    add("--batch", type=int, default=16, help="answers in an update (default: %(default)s)")
    add("--lr", type=float, help="peak learning rate (default: the method's)")
    add("--soft", type=float, help="weight of the soft cross entropy (default: 0.1)")
    add(
        "--noise",
        type=float,
        help="uniform noise on hidden states, as a part of their size (default: 0.1)",
    )
    add(
        "--residual-rows",
        type=int,
        help="learned vectors of the drafting steps (default: 3 for hivis, 0 for eagle)",
    )
    add("--held-out", type=int, default=64, help="answers only measured (default: %(default)s)")
    add("--fp32", action="store_true", help="no autocast to bfloat16")


def add_draft_vocab(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_draft_vocab)
    parser.epilog = DRAFT_VOCAB_EXAMPLES
    add = parser.add_argument
    add("--target", required=True, help="folder or hub name of the VLM")
    add("--data", required=True, type=Path, help="folder of its captured answers")
    add("--out", required=True, type=Path, help="the file, or the drafter's folder")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    parser.add_argument("--seed", type=int, default=0)


def _add_answers(parser: argparse.ArgumentParser) -> None:
    """What belongs to the answering; not given, it has the default of CollectOptions."""
    group = parser.add_argument_group("the target's answers (where the data has none yet)")
    default = {entry.name: entry.default for entry in fields(CollectOptions)}

    def add(flag: str, help: str, **more: Any) -> None:
        name = flag[2:].replace("-", "_")
        shown = f" (default: {default[name]})" if default[name] is not None else ""
        group.add_argument(flag, help=help + shown, **more)

    add("--images", "where image paths start (default: the data's folder)", type=Path)
    add("--count", "use only the first N conversations (default: all)", type=int)
    add("--turns", "questions asked of each conversation", type=int)
    add("--sampled", "share of answers sampled at temperature 1, not greedy", type=float)
    add("--max-new-tokens", "where an answer is cut off", type=int)
    add("--answer-batch", "prompts answered at a time", type=int)
    add("--dtype", "of the target while it answers", choices=("bfloat16", "float16", "float32"))


def _draft_vocab(options: argparse.Namespace) -> None:
    from hivis.training.draft_vocab import write_draft_vocab

    write_draft_vocab(options.target, options.data, options.out)


def _capture(options: argparse.Namespace) -> None:
    from hivis.cli.model_options import report_out_of_memory
    from hivis.training.answer import collect, columns_of

    _check(options)
    fits = any("draft" in method_of(name).options for name in options.method)
    if options.draft is not None and not fits:
        raise HivisError(f"--draft: wanted none without draft-vlm, got {options.draft}")
    with report_out_of_memory("the answers (fewer at a time: --answer-batch)"):
        collect(_pick(CollectOptions, options), columns_of(options.method))


def _train(options: argparse.Namespace) -> None:
    from hivis.cli.model_options import report_out_of_memory
    from hivis.training.train import train

    _check(options)
    method = method_of(options.method)
    if method.needs_draft and options.draft is None:
        raise HivisError("--draft: wanted a model to start from, got None")
    for name in ("draft", "soft", "noise", "residual_rows"):
        value = getattr(options, name)
        if value is not None and name not in method.options:
            raise HivisError(f"{_flag(name)}: wanted none with {method.name}, got {value}")
    if options.data.is_dir():
        for name in ANSWERING:
            if getattr(options, name) is not None:
                raise HivisError(
                    f"{_flag(name)}: wanted none with answers that are captured already, got "
                    f"{getattr(options, name)}"
                )
    with report_out_of_memory("the training (fewer at a time: --batch, --answer-batch)"):
        train(_pick(TrainOptions, options), _pick(CollectOptions, options))


def _check(options: argparse.Namespace) -> None:
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name in (
        "count",
        "turns",
        "max_new_tokens",
        "answer_batch",
        "updates",
        "batch",
        "held_out",
    ):
        if name in given and given[name] < 1:
            raise HivisError(f"{_flag(name)}: wanted at least 1, got {given[name]}")
    for name in ("soft", "noise", "residual_rows"):
        if name in given and not 0 <= given[name] < math.inf:
            raise HivisError(f"{_flag(name)}: wanted at least 0, got {given[name]}")
    if "lr" in given and not 0 < given["lr"] < math.inf:
        raise HivisError(f"--lr: wanted a positive number, got {given['lr']}")
    if "sampled" in given and not 0 <= given["sampled"] <= 1:
        raise HivisError(f"--sampled: wanted a share of 0 to 1, got {given['sampled']}")
    if not 0 <= options.seed < 1 << 63:
        raise HivisError(f"--seed: wanted 0 to 2**63 - 1, got {options.seed}")
    _check_device(options.device)


def _check_device(name: str) -> None:
    """HivisError unless a tensor can be made there and read again."""
    import torch

    try:
        torch.ones(1, device=name).item()
    except Exception as error:  # unknown names, missing drivers, meta: each has a kind of its own
        raise HivisError(
            f"--device: wanted one that torch can use, got {name} ({first_line(error)})"
        ) from None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _pick(kind: type[Any], options: argparse.Namespace) -> Any:
    """``kind`` from those options that are its fields and were given."""
    given = {entry.name: getattr(options, entry.name, None) for entry in fields(kind)}
    return kind(**{name: value for name, value in given.items() if value is not None})
