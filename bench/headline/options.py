"""The arguments of bench/latency.py, and the defaults that depend on other arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.common.options import (
    add_device,
    add_drafter_weights,
    add_json,
    add_plot,
    add_tree,
    check_at_least_one,
)
from bench.headline.prefill_rows import QUESTION
from hivis.cli.parser import Parser
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.core.tree_shape import TreeShape
from hivis.drafters.registry import DrafterMethod, methods
from hivis.errors import HivisError
from hivis.policies.registry import policy_names, policy_of

TREE = TreeShape()
#: Methods whose bundled drafters have a row without --compare.
HEADLINE = ("eagle", "hivis")
#: By (compare, quick): --count, --repeat, --max-new-tokens.
DEFAULTS = {
    (False, False): (16, 1, 160),
    (True, False): (12, 3, 160),
    (False, True): (2, 1, 16),
    (True, True): (1, 1, 16),
}


def parse(description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line and fill in the defaults that depend on other options.

    Raises:
        HivisError: an unknown option, a bad value, or options that do not go together.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if any(argument.split("=")[0] == "--shape" for argument in given):
        raise HivisError(
            "--shape: wanted python -m bench.synthetic SHAPE (a program of its own), "
            "got an option of bench/latency.py"
        )
    parser = Parser(prog="bench/latency.py", description=description)
    _add_what(parser)
    _add_how(parser)
    out = parser.add_argument_group("output")
    add_json(out.add_argument)
    add_plot(out.add_argument)
    options = parser.parse_args(arguments)
    if options.ablate and not options.compare:
        raise HivisError("--ablate: wanted --compare with it, got none")
    for method in methods():
        if given_folder(options, method) and _only_compared(method) and not options.compare:
            raise HivisError(f"{flag_of(method)}: wanted --compare with it, got none")
    if options.ablations is not None and not options.ablate:
        raise HivisError("--ablations: wanted --ablate with it, got none")
    defaults = DEFAULTS[options.compare, options.quick]
    for name, value in zip(("count", "repeat", "max_new_tokens"), defaults, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.policy is None:
        options.policy = "cost" if options.compare else "fixed"
    check_at_least_one(options, "count", "repeat", "question")
    make_policy(options)  # whose sizes are checked before anything is loaded
    sampling_settings(options)
    return options


def compared_methods() -> list[DrafterMethod]:
    """All drafting methods in the order of their rows: EAGLE-2 first, HiViS last."""
    return sorted(methods(), key=lambda method: (method.name == "hivis", method.name != "eagle"))


def flag_of(method: DrafterMethod) -> str:
    """The option that names a drafter of this method."""
    return "--drafter" if method.name == "hivis" else f"--{method.name}"


def given_folder(options: argparse.Namespace, method: DrafterMethod) -> str | None:
    """The drafter of this method that was given."""
    return getattr(options, flag_of(method)[2:].replace("-", "_"))


def _only_compared(method: DrafterMethod) -> bool:
    """Whether its row belongs to the comparison alone: it is bundled, and not of the headline."""
    return method.bundled is not None and method.name not in HEADLINE


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is run").add_argument
    add(
        "--compare",
        action="store_true",
        help="all drafters in one run, with figures for long and for short answers",
    )
    add(
        "--ablate",
        action="store_true",
        help="with --compare: also what each part of HiViS and each tree policy brings",
    )
    add("--quick", action="store_true", help="two prompts, few tokens: a trial run")
    add("--no-hf", action="store_true", help="leave out the Hugging Face rows")
    add = parser.add_argument_group("model").add_argument
    add("--model", help="folder or hub name of a VLM (default: the bundled one)")
    for method in methods():
        note = " (default: the bundled one)" if method.name in HEADLINE else ""
        note = " (with --compare)" if _only_compared(method) else note
        add(flag_of(method), metavar="FOLDER", help=f"a {method.title} drafter{note}")
    add(
        "--ablations",
        type=Path,
        metavar="DIR",
        help="HiViS drafters to ablate with: no-hiding, no-residual and stage-1 in this folder",
    )
    add_drafter_weights(add)
    add_device(add)


def _add_how(parser: argparse.ArgumentParser) -> None:
    title = "draft tree (nodes and depth are those of --policy fixed)"
    add = parser.add_argument_group(title).add_argument
    add(
        "--policy",
        choices=policy_names(),
        help="how the size of every tree is chosen (default: fixed; with --compare cost)",
    )
    add_tree(add, TREE)
    add("--sharpness", type=float, default=TREE.sharpness, help="of path scores at T > 0")
    add = parser.add_argument_group("sampling").add_argument
    add("--temperature", type=float, nargs="+", default=[0.0, 1.0], metavar="T")
    add("--top-k", type=int, default=0)
    add("--top-p", type=float, default=1.0)
    add("--seed", type=int, default=0)
    add("--max-new-tokens", type=int, help="default: 160")
    add = parser.add_argument_group("prompts (default: the bundled held-out ones)").add_argument
    add(
        "--prompts",
        type=Path,
        help="JSON Lines with prompt, image (a path) and optionally group (for --compare)",
    )
    add("--prompt", help="one prompt of your own")
    add("--image", action="append", default=[], help="its image (repeatable)")
    add(
        "--count",
        type=int,
        help="at most this many prompts (default: 16); with --compare this many with long answers "
        "and twice as many with short ones (default: 12 and 24)",
    )
    add(
        "--repeat",
        type=int,
        help="passes over the prompts; the median of each prompt counts (default: 1; with "
        "--compare 3)",
    )
    add(
        "--question",
        type=int,
        default=QUESTION,
        metavar="ROWS",
        help="text rows of the prompt in the table of computed prefills of --compare",
    )


def make_policy(options: argparse.Namespace, name: str | None = None, noise: bool = True) -> Policy:
    """A new policy, by default that of the drafted rows. Adaptive ones keep their own sizes."""
    shape = TreeShape(options.nodes, options.depth, options.tree_top_k, options.sharpness, noise)
    name = name or options.policy
    sizes = {"nodes": shape.nodes, "depth": shape.depth} if name == "fixed" else {}
    return policy_of(name, top_k=shape.top_k, sharpness=shape.sharpness, noise=noise, **sizes)


def sampling_settings(options: argparse.Namespace) -> list[SamplingParams]:
    """How tokens are drawn, once for every temperature."""
    return [
        SamplingParams(
            temperature=temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            max_new_tokens=options.max_new_tokens,
        )
        for temperature in dict.fromkeys(options.temperature)
    ]
