"""The options that ``generate`` and ``chat`` have in common, and the model that they ask for."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hivis.api.settings import KNOWN, OWN
from hivis.bundled import paths
from hivis.cli.parser import number, one_of, whole_number
from hivis.drafters.quantize import FORMATS
from hivis.errors import HivisError, first_line
from hivis.policies.registry import policy_names, policy_records

if TYPE_CHECKING:
    from hivis.api.model import Model

IMAGE = paths.EVAL / "scene00.png"


def add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--model", metavar="M", help="folder or hub name of a VLM (default: the bundled one)")
    add(
        "--drafter",
        metavar="D",
        help="folder or hub name of a HiViS, EAGLE-2 or ViSpec drafter or of a small model; none: "
        "decode plainly (default: the bundled one for the bundled model, else none)",
    )
    add(
        "--dtype",
        type=one_of("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="auto (default), bfloat16, float16 or float32",
    )
    add(
        "--drafter-weights",
        type=one_of(*FORMATS),
        default="full",
        help="weights of the drafter: full (default), int8 or int4 (int4-32, int4-128: groups of "
        "so many inputs); the output is the same",
    )
    add(
        "--draft-vocab",
        type=_head,
        metavar="N|FILE",
        help="draft only the target's N most frequent tokens, by the list beside the drafter, or "
        "those of a list (see hivis draft-vocab); default: all tokens; the text is the same",
    )
    add(
        "--drafter-config",
        metavar="FILE",
        help="config.json of a drafter's checkpoint that comes without one",
    )
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add(
        "--policy",
        type=one_of(*policy_names()),
        default=policy_names()[0],
        help="how large draft trees are: "
        + ", ".join(f"{record.name} {record.summary}" for record in policy_records())
        + f" (default: {policy_names()[0]}); the output is the same",
    )
    add("--no-graphs", action="store_true", help="launch a GPU's operations one by one")
    add(
        "--compile",
        action="store_true",
        help="let torch.compile make the model's passes: slow to begin with, then faster",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "how tokens are drawn", "What is not given is as the model's generation_config.json says."
    )
    add = group.add_argument
    add("--temperature", type=number, metavar="T", help="0 is greedy")
    add("--top-k", type=whole_number, metavar="K", help="draw from the K most probable tokens")
    add("--top-p", type=number, metavar="P", help="from the most probable that hold this much")
    add("--min-p", type=number, metavar="P", help="from those this probable beside the first")
    add(
        "--repetition-penalty",
        type=number,
        metavar="P",
        help="lower tokens that prompt or text hold already; 1 does nothing",
    )
    add(
        "--seed",
        type=whole_number,
        default=0,
        help="the same seed gives the same text (default: 0)",
    )
    add("--max-new-tokens", type=whole_number, metavar="N", help="the limit")
    add("--stop", action="append", metavar="TEXT", help="end the text before this (repeatable)")
    add(
        "--set",
        action="append",
        default=[],
        type=_assignment,
        metavar="NAME=VALUE",
        help="another generation setting by its name in transformers, also to overrule one of the "
        "model's that hivis refuses (repeatable)",
    )


def _head(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"wanted NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, as :meth:`hivis.Model.stream` takes them."""
    names = (
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "seed",
        "max_new_tokens",
        "stop",
    )
    given = {name: getattr(options, name) for name in names}
    for name, value in options.set:
        if name not in KNOWN | OWN:
            raise HivisError(f"--set {name}: wanted a generation setting, got an unknown name")
        if given.get(name) is not None and (name != "seed" or options.seed):
            raise HivisError(f"--set {name}: wanted a setting that is given once, got two")
        given[name] = value
    return given


def same_file(one: str | Path, other: str | Path) -> bool:
    """Whether two paths lead to one file that is there."""
    return Path(one).exists() and Path(other).exists() and Path(one).samefile(other)


def images_of(options: argparse.Namespace) -> list[Any]:
    """The images that were given; if neither they nor a model were, the default one."""
    if options.image or options.model is not None:
        return list(options.image)
    return [IMAGE]


def load_model(options: argparse.Namespace) -> Model:
    """The model of the command line, with a note on the terminal while it loads."""
    with _note(f"loading {options.model or 'the bundled model'} ..."):
        from hivis.api.load import load
        from hivis.models.quiet import quiet

        quiet()
        return load(
            options.model,
            options.drafter,
            dtype=options.dtype,
            device=options.device,
            policy=options.policy,
            drafter_weights=options.drafter_weights,
            draft_vocab=options.draft_vocab,
            drafter_config=options.drafter_config,
            graphs=False if options.no_graphs else None,
            compile=options.compile,
        )


@contextmanager
def _note(text: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    print(text, end="", flush=True, file=sys.stderr)
    try:
        yield
    finally:
        print("\r\x1b[K", end="", flush=True, file=sys.stderr)


@contextmanager
def report_out_of_memory(what: str = "model and text") -> Iterator[None]:
    """Too little memory is said in one line like other input that does not fit the machine."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On a CPU torch has no class of its own for it.
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not known and "DefaultCPUAllocator" not in str(error):
            raise
        raise HivisError(f"memory: wanted enough for {what}, got: {first_line(error)}") from error
