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
from hivis.core.policy import Policy, TreePolicy
from hivis.core.sampling import SamplingParams
from hivis.errors import HivisError
from hivis.policies.confidence import ConfidencePolicy
from hivis.policies.cost import CostPolicy

TREE = TreePolicy()
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
    for name in ("vispec", "draft_vlm"):
        if getattr(options, name) is not None and not options.compare:
            raise HivisError(f"--{name.replace('_', '-')}: wanted --compare with it, got none")
    if options.ablations is not None and not options.ablate:
        raise HivisError("--ablations: wanted --ablate with it, got none")
    defaults = DEFAULTS[options.compare, options.quick]
    for name, value in zip(("count", "repeat", "max_new_tokens"), defaults, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.policy is None:
        options.policy = "cost" if options.compare else "fixed"
    check_at_least_one(options, "count", "repeat", "question")
    return options


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
    add("--drafter", help="folder of a HiViS drafter (default: the bundled one)")
    add("--eagle", help="folder of an EAGLE-2 style drafter that sees the image")
    add("--vispec", help="folder of a ViSpec drafter (with --compare)")
    add("--draft-vlm", help="folder of a small VLM that drafts (with --compare)")
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
        choices=("fixed", "confidence", "cost"),
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


def make_policy(options: argparse.Namespace, noise: bool = True) -> Policy:
    """A new policy of the drafted rows. Adaptive ones keep their own sizes."""
    fixed = TreePolicy(
        options.nodes, options.depth, options.tree_top_k, options.sharpness, noise=noise
    )
    if options.policy == "confidence":
        return ConfidencePolicy(top_k=fixed.top_k, sharpness=fixed.sharpness, noise=noise)
    if options.policy == "cost":
        return CostPolicy(top_k=fixed.top_k, sharpness=fixed.sharpness, noise=noise)
    return fixed


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
