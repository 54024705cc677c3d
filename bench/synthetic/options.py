"""The arguments of bench.synthetic, checked before any model is made."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.common.options import (
    add_device,
    add_drafter_weights,
    add_json,
    add_plot,
    add_tree,
    check_at_least_one,
)
from bench.common.trees import rank_parents
from bench.synthetic.accepted_lengths import parse_accepted
from bench.synthetic.configs import SCALES, SHAPES, shape_of
from bench.synthetic.drafters import drafter_names, random_draft_vocab
from bench.synthetic.random_models import LEAST_ROWS
from hivis.cli.parser import Parser
from hivis.core.tree_shape import TreeShape
from hivis.errors import HivisError

#: The trees of the published HiViS runs: 60 nodes, 6 drafted levels, 10 expanded nodes a level.
NODES, DEPTH, TOP_K = 60, 6, 10
PROMPT_ROWS, TINY_ROWS = (700, 2048), (48, 96)
#: By --quick: --repeat, --max-new-tokens.
DEFAULTS = {False: (3, 256), True: (1, 16)}


def parse(description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line and fill in the defaults that depend on other options.

    Raises:
        HivisError: an unknown option, a bad value, or options that do not go together.
    """
    parser = Parser(prog="python -m bench.synthetic", description=description)
    _add_what(parser)
    _add_how(parser)
    out = parser.add_argument_group("output")
    add_json(out.add_argument)
    add_plot(out.add_argument)
    options = parser.parse_args(arguments)
    for name, value in zip(("repeat", "max_new_tokens"), DEFAULTS[options.quick], strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.prompt_rows is None:
        options.prompt_rows = list(PROMPT_ROWS if options.scale is None else TINY_ROWS)
    _check(options)
    return options


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("shape", metavar="SHAPE", choices=SHAPES, help=f"whose sizes: {', '.join(SHAPES)}")
    add("--scale", choices=SCALES, help="a scaled model, to try the code")
    add("--layers", type=int, help="of the target (default: as published)")
    add("--drafter", choices=drafter_names(), default="hivis", help="default: %(default)s")
    add_drafter_weights(add)
    add_device(add)
    add = parser.add_argument_group("what is run").add_argument
    add("--quick", action="store_true", help="few tokens and cycles: a trial run")
    add("--no-hf", action="store_true", help="leave out generate of transformers")
    add(
        "--hf-static",
        action="store_true",
        help="also generate with a static cache, which transformers compiles on a GPU",
    )
    add(
        "--compile",
        action="store_true",
        help="let torch.compile make the target's passes (a minute or more for every N)",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("cycles").add_argument
    add(
        "--accepted",
        metavar="FILE|MEAN",
        default="3.0",
        help="accepted lengths to replay: their mean, or a JSON file with counts by length, "
        "as a list or an object (default: %(default)s)",
    )
    add_tree(add, TreeShape(NODES, DEPTH, TOP_K))
    add = parser.add_argument_group("amount").add_argument
    add(
        "--prompt-rows",
        type=int,
        nargs="+",
        metavar="ROWS",
        help=f"rows of the prompts (default: {' and '.join(map(str, PROMPT_ROWS))})",
    )
    add("--max-new-tokens", type=int, help="of whole outputs (default: 256)")
    add("--repeat", type=int, help="outputs by each method, of which medians count (default: 3)")


def _check(options: argparse.Namespace) -> None:
    """HivisError for what would fail only after a model is made."""
    check_at_least_one(options, "repeat", "max_new_tokens")
    TreeShape(options.nodes, options.depth, options.tree_top_k)
    rank_parents(options.nodes, options.depth, options.tree_top_k)
    shape = shape_of(options.shape, options.scale, options.layers)
    if options.draft_vocab is not None and options.draft_vocab < options.tree_top_k:
        raise HivisError(
            f"--draft-vocab: wanted at least the {options.tree_top_k} children of a node "
            f"(--tree-top-k), got {options.draft_vocab}"
        )
    text = shape.config.get_text_config()
    most = text.max_position_embeddings
    for rows in options.prompt_rows:
        if not LEAST_ROWS <= rows < most:
            raise HivisError(f"--prompt-rows: wanted {LEAST_ROWS} to {most - 1}, got {rows}")
    random_draft_vocab(text.vocab_size, options.draft_vocab)
    parse_accepted(options.accepted, options.depth)
