"""The options that ``generate``, ``chat`` and ``batch`` share, and the model that they load."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hivis.bundled import paths
from hivis.cli.parser import number, one_of, whole_number
from hivis.drafters.quantize import FORMATS
from hivis.errors import HivisError, first_line
from hivis.policies.registry import POLICIES, policy_names

if TYPE_CHECKING:
    from hivis.api.model import Model

IMAGE = paths.EVAL / "scene00.png"


def add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--model", metavar="M", help="folder or hub name of a VLM (default: the bundled model)")
    add(
        "--drafter",
        metavar="D",
        help="folder or hub name of a HiViS, EAGLE-2 or ViSpec drafter, or of a small model that "
        "drafts; none: no drafter (default: for the bundled model its drafter, otherwise none)",
    )
    add(
        "--dtype",
        type=one_of("auto", "bfloat16", "float16", "float32"),
        default="auto",
        metavar="TYPE",
        help="auto (default), bfloat16, float16 or float32",
    )
    add(
        "--drafter-weights",
        type=one_of(*FORMATS),
        default="full",
        metavar="FORMAT",
        help="quantization of the drafter's weights: full (default) is none; int8; int4, or "
        "int4-32 and int4-128 with groups of that many inputs; the output is the same",
    )
    add(
        "--draft-vocab",
        type=_number_or_path,
        metavar="N|FILE",
        help="draft only the target's N most frequent tokens, from the list in the drafter's "
        "folder, or the tokens of the list in FILE (see hivis draft-vocab; default: all tokens); "
        "the output is the same",
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
        help="how the size of draft trees is chosen: "
        + ", ".join(f"{record.name} {record.summary}" for record in POLICIES.records())
        + f" (default: {policy_names()[0]}); the output is the same",
    )
    add("--no-graphs", action="store_true", help="use no CUDA graphs on a GPU")
    add(
        "--compile",
        action="store_true",
        help="compile the model with torch.compile: a slow start, then faster",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "sampling", "Defaults are those of the model's generation_config.json."
    )
    add = group.add_argument
    add("--temperature", type=number, metavar="T", help="0 decodes greedily")
    add("--top-k", type=whole_number, metavar="K", help="sample from the K most probable tokens")
    add(
        "--top-p",
        type=number,
        metavar="P",
        help="sample from the most probable tokens with this total probability",
    )
    add(
        "--min-p",
        type=number,
        metavar="P",
        help="sample from tokens with at least this share of the highest probability",
    )
    add(
        "--repetition-penalty",
        type=number,
        metavar="P",
        help="lower the logits of tokens that prompt or output already contain; 1 does nothing",
    )
    add(
        "--seed",
        type=whole_number,
        default=0,
        help="the same seed gives the same output (default: 0)",
    )
    add("--max-new-tokens", type=whole_number, metavar="N", help="the longest output, in tokens")
    add(
        "--stop",
        action="append",
        metavar="TEXT",
        help="end the output before this string (repeatable)",
    )
    add(
        "--set",
        action="append",
        default=[],
        type=_assignment,
        metavar="NAME=VALUE",
        help="another generation setting, by its name in transformers; also replaces a setting of "
        "the model that hivis refuses (repeatable)",
    )


def _number_or_path(text: str) -> int | str:
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
    """The generation settings of the command line, as keywords of :meth:`hivis.Model.stream`."""
    from hivis.api.settings import KNOWN, OWN

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
            raise HivisError(f"--set {name}: wanted a setting that is given once, got it twice")
        given[name] = value
    return given


def same_file(one: str | Path, other: str | Path) -> bool:
    """Whether two paths lead to the same existing file."""
    return Path(one).exists() and Path(other).exists() and Path(one).samefile(other)


def images_of(options: argparse.Namespace) -> list[Any]:
    """The images of the command line; the default image if there are none and no model."""
    if options.image or options.model is not None:
        return list(options.image)
    return [IMAGE]


def load_model(options: argparse.Namespace) -> Model:
    """Load the model of the command line, with a message on the terminal meanwhile."""
    with _message(f"loading {options.model or 'the bundled model'} ..."):
        from hivis.api.load import load
        from hivis.models.load import quiet

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
def _message(text: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    print(text, end="", flush=True, file=sys.stderr)
    try:
        yield
    finally:
        print("\r\x1b[K", end="", flush=True, file=sys.stderr)


@contextmanager
def report_out_of_memory(what: str = "model and output") -> Iterator[None]:
    """Turn a lack of memory into a HivisError: the input is too large for the machine."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        import torch

        # On a CPU torch has no class of its own for it.
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not known and "DefaultCPUAllocator" not in str(error):
            raise
        raise HivisError(f"memory: wanted enough for {what}, got: {first_line(error)}") from error
