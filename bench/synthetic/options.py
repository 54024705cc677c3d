"""The options of bench/latency.py that are about models of real size with random weights."""

from __future__ import annotations

import argparse
from typing import Any

from bench.synthetic.accepted_lengths import parse_accepted
from bench.synthetic.configs import SCALES, SHAPES, shape_of
from bench.synthetic.random_models import LEAST_ROWS, drafter_config, random_head
from bench.synthetic.simulated_acceptance import rank_parents
from hivis.core.tree_shape import TreeShape
from hivis.errors import HivisError

DRAFTERS = ("hivis", "vispec")
#: The trees of the published HiViS runs: 60 nodes, 6 drafted levels, 10 expanded nodes a level.
NODES, DEPTH, TOP_K = 60, 6, 10
MEAN = "3.0"
PROMPT_ROWS, TINY_ROWS = (700, 2048), (48, 96)
#: Options that say what else could be run, with what they are if nobody gives them.
OTHERS: dict[str, Any] = {
    "compare": False, "ablate": False, "model": None, "eagle": None, "vispec": None,
    "draft_vlm": None, "prompts": None, "prompt": None, "image": [], "count": None,
    "temperature": [0.0, 1.0], "top_k": 0, "top_p": 1.0, "seed": 0, "sharpness": 1.0,
}  # fmt: skip
#: Those that say nothing without --shape.
OWN = ("accepted", "layers", "scale", "prompt_rows", "weights")
SWITCHES = ("compile", "hf_static")


def add_shape(parser: argparse.ArgumentParser) -> None:
    shape = parser.add_argument_group("a model of real size (with random weights)")
    shape.add_argument(
        "--shape", choices=SHAPES, help="whose sizes; see bench/synthetic/configs.py"
    )
    shape.add_argument(
        "--weights", choices=("random",), help="what its weights are (default: random)"
    )
    shape.add_argument(
        "--accepted",
        metavar="FILE|MEAN",
        help="accepted lengths to replay: their mean, or a JSON file with counts by length, "
        f"as a list or an object (default: {MEAN})",
    )
    shape.add_argument("--layers", type=int, help="of the target (default: as published)")
    shape.add_argument("--scale", choices=SCALES, help="a scaled model, to try the code")
    shape.add_argument(
        "--prompt-rows",
        type=int,
        nargs="+",
        metavar="ROWS",
        help=f"rows of the prompts (default: {' and '.join(map(str, PROMPT_ROWS))})",
    )
    shape.add_argument(
        "--compile",
        action="store_true",
        help="let torch.compile make the target's passes (a minute or more for every N)",
    )
    shape.add_argument(
        "--hf-static",
        action="store_true",
        help="also generate with a static cache, which transformers compiles on a GPU",
    )


def check_shape(options: argparse.Namespace) -> None:
    """Fill in what was not given; HivisError for what does not go together."""
    if options.shape is None:
        for name in OWN:
            if getattr(options, name) is not None:
                raise HivisError(f"--{name.replace('_', '-')}: wanted --shape with it, got none")
        for name in SWITCHES:
            if getattr(options, name):
                raise HivisError(f"--{name.replace('_', '-')}: wanted --shape with it, got none")
        return
    for name, default in OTHERS.items():
        if getattr(options, name) != default:
            raise HivisError(f"--shape: wanted no --{name.replace('_', '-')} with it, got one")
    if options.policy not in (None, "fixed"):
        raise HivisError(f"--policy: wanted fixed with --shape, got {options.policy}")
    options.drafter = options.drafter or DRAFTERS[0]
    if options.drafter not in DRAFTERS:
        raise HivisError(
            f"--drafter: wanted {' or '.join(DRAFTERS)} with --shape, got {options.drafter}"
        )
    options.weights = "random"
    defaults = {"nodes": NODES, "depth": DEPTH, "tree_top_k": TOP_K, "accepted": MEAN}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.prompt_rows is None:
        options.prompt_rows = list(PROMPT_ROWS if options.scale is None else TINY_ROWS)
    # What can be said of these before anything is made is said here.
    if options.max_new_tokens is not None and options.max_new_tokens < 1:
        raise HivisError(f"--max-new-tokens: wanted at least 1, got {options.max_new_tokens}")
    TreeShape(options.nodes, options.depth, options.tree_top_k)
    rank_parents(options.nodes, options.depth, options.tree_top_k)
    shape = shape_of(options.shape, options.scale, options.layers)
    if options.draft_vocab is not None and options.draft_vocab < options.tree_top_k:
        raise HivisError(
            f"--draft-vocab: wanted at least the {options.tree_top_k} children of a node "
            f"(--tree-top-k), got {options.draft_vocab}"
        )
    most = shape.config.get_text_config().max_position_embeddings
    for rows in options.prompt_rows:
        if not LEAST_ROWS <= rows < most:
            raise HivisError(f"--prompt-rows: wanted {LEAST_ROWS} to {most - 1}, got {rows}")
    random_head(drafter_config(shape, options.drafter), options.draft_vocab)
    parse_accepted(options.accepted, options.depth)


def is_quantized(options: argparse.Namespace) -> bool:
    """Whether the drafter is more quantizedly quantized than its target."""
    return options.drafter_weights != "full" or options.draft_vocab is not None
