"""The arguments of bench/latency.py, and what those that were not given come to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.headline.prefill_rows import QUESTION
from bench.synthetic.options import add_shape, check_shape
from hivis.cli.parser import Parser
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.core.tree_shape import TreeShape
from hivis.drafters.quantize import FORMATS
from hivis.errors import HivisError
from hivis.policies.registry import policy_names, policy_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TREE = TreeShape()
#: By (compare, quick): --count, --repeat, --max-new-tokens.
DEFAULTS = {
    (False, False): (16, 1, 160),
    (True, False): (12, 3, 160),
    (False, True): (2, 1, 16),
    (True, True): (1, 1, 16),
}
#: The same with --shape, by quick.
SHAPE_DEFAULTS = {False: (1, 3, 256), True: (1, 1, 16)}


def parse(description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; what depends on other options is filled in."""
    parser = Parser(prog="bench/latency.py", description=description)
    _add_what(parser)
    _add_how(parser)
    add_shape(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--json", type=Path, help="write everything here")
    out.add_argument("--plot", type=Path, help="draw the rows here (.png, .svg, .pdf)")
    options = parser.parse_args(arguments)
    check_shape(options)
    if options.ablate and not options.compare:
        raise HivisError("--ablate: wanted --compare with it, got none")
    for name in ("vispec", "draft_vlm"):
        if getattr(options, name) is not None and not options.compare:
            raise HivisError(f"--{name.replace('_', '-')}: wanted --compare with it, got none")
    if options.ablations is not None and not options.ablate:
        raise HivisError("--ablations: wanted --ablate with it, got none")
    defaults = DEFAULTS[options.compare, options.quick]
    if options.shape is not None:
        defaults = SHAPE_DEFAULTS[options.quick]
    for name, value in zip(("count", "repeat", "max_new_tokens"), defaults, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.policy is None:
        options.policy = "cost" if options.compare else "fixed"
    for name, value in (("nodes", TREE.nodes), ("depth", TREE.depth), ("tree_top_k", TREE.top_k)):
        if getattr(options, name) is None:
            setattr(options, name, value)
    for name in ("count", "repeat", "question"):
        if getattr(options, name) < 1:
            raise HivisError(f"--{name}: wanted at least 1, got {getattr(options, name)}")
    return options


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is run")
    what.add_argument(
        "--compare",
        action="store_true",
        help="all drafters side by side, long and short answers apart",
    )
    what.add_argument(
        "--ablate",
        action="store_true",
        help="with --compare: also what each part of HiViS and each tree policy brings",
    )
    what.add_argument("--quick", action="store_true", help="two prompts, few tokens: a trial run")
    what.add_argument("--no-hf", action="store_true", help="leave out the Hugging Face rows")
    model = parser.add_argument_group("model")
    model.add_argument("--model", help="folder or hub name of a VLM (default: the bundled one)")
    model.add_argument(
        "--drafter",
        help="folder of a HiViS drafter (default: the embedded "
        "one); with --shape hivis or vispec (default: hivis)",
    )
    model.add_argument("--eagle", help="folder of an EAGLE-2 style drafter that sees the image")
    model.add_argument("--vispec", help="folder of a ViSpec drafter (with --compare)")
    model.add_argument("--draft-vlm", help="folder of a small VLM that drafts (with --compare)")
    model.add_argument(
        "--ablations",
        type=Path,
        metavar="DIR",
        help="HiViS drafters to ablate with: no-hiding, no-residual and stage-1 in this folder",
    )
    model.add_argument(
        "--drafter-weights",
        choices=FORMATS,
        default="full",
        help="how quantized the weights of one-layer drafters are (default: full, as the target's)",
    )
    model.add_argument(
        "--draft-vocab",
        type=int,
        metavar="N",
        help="tokens that these draft, the most frequent of the list beside them (default: all)",
    )
    model.add_argument("--device", default="cpu")
    model.add_argument(
        "--dtype", choices=DTYPES, help="default: bfloat16 where the device has it, else float32"
    )
    model.add_argument("--threads", type=int, help="threads of the CPU (default: torch's)")


def _add_how(parser: argparse.ArgumentParser) -> None:
    tree = parser.add_argument_group("draft tree (nodes and depth are those of --policy fixed)")
    tree.add_argument(
        "--policy",
        choices=policy_names(),
        help="how the size of every tree is chosen (default: fixed; with --compare cost)",
    )
    tree.add_argument(
        "--nodes", type=int, help=f"N, the root included (default: {TREE.nodes}; with --shape 60)"
    )
    tree.add_argument("--depth", type=int, help=f"default: {TREE.depth}; with --shape 6")
    tree.add_argument(
        "--tree-top-k",
        type=int,
        help=f"nodes expanded per level (default: {TREE.top_k}; with --shape 10)",
    )
    tree.add_argument(
        "--sharpness", type=float, default=TREE.sharpness, help="of path scores at T > 0"
    )
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--temperature", type=float, nargs="+", default=[0.0, 1.0])
    sampling.add_argument("--top-k", type=int, default=0)
    sampling.add_argument("--top-p", type=float, default=1.0)
    sampling.add_argument("--seed", type=int, default=0)
    sampling.add_argument("--max-new-tokens", type=int, help="default: 160")
    prompts = parser.add_argument_group("prompts (default: the embedded held-out ones)")
    prompts.add_argument(
        "--prompts",
        type=Path,
        help="JSON Lines with prompt, image (a path) and, if they are to be told apart, a group",
    )
    prompts.add_argument("--prompt", help="one prompt of your own")
    prompts.add_argument("--image", action="append", default=[], help="its image (repeatable)")
    prompts.add_argument(
        "--count",
        type=int,
        help="at most this many prompts (default: 16); with --compare this many with long answers "
        "and twice as many with short ones (default: 12 and 24)",
    )
    prompts.add_argument(
        "--repeat",
        type=int,
        help="passes over the prompts; of each prompt the median counts (default: 1; with "
        "--compare 3)",
    )
    prompts.add_argument(
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
