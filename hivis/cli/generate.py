"""``hivis generate``: one text, on the terminal as it is accepted."""

from __future__ import annotations

import argparse
import json
import sys

from hivis.cli.model_options import (
    add_model,
    add_settings,
    given_settings,
    images_of,
    load_model,
    report_out_of_memory,
    same_file,
)
from hivis.errors import HivisError
from hivis.page import write_page
from hivis.page.write import check_writable

PROMPT = "Describe this image in detail and explain each thing."
ABOUT = """Answer a prompt about images, the text as soon as it is accepted.

The text goes to stdout, one line of statistics to stderr. Without --model the small model that
ships with hivis answers, by default about an image of its own."""
EXAMPLES = """examples:
  python -m hivis generate
  python -m hivis generate --show-tree --temperature 1 --seed 7
  python -m hivis generate --model llava-hf/llava-1.5-7b-hf --drafter D --image cat.png \\
    --prompt "What is the cat doing?"
  python -m hivis generate --html run.html --seed 7 --temperature 1
  python -m hivis generate --json | jq -r .text"""


def add_generate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=generate)
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("--prompt", metavar="TEXT", help="the question; - reads it from stdin")
    add(
        "--image",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="images that it is about",
    )
    add("--json", action="store_true", help="one JSON object: text, tokens, statistics")
    add(
        "--show-tree",
        action="store_true",
        help="color what was drafted and accepted, and what the target drew itself",
    )
    add(
        "--html",
        metavar="PATH",
        help="write a page about the text: images, cycles, draft trees, times (one file)",
    )
    add_model(parser)
    add_settings(parser)


def generate(options: argparse.Namespace) -> None:
    if options.json and options.show_tree:
        raise HivisError("--show-tree: wanted a text to color, got --json")
    paged = options.html is not None
    if paged:
        check_writable(options.html, "--html")
    settings = given_settings(options)
    prompt, images = _prompt(options), images_of(options)
    if paged and any(same_file(options.html, image) for image in images):
        raise HivisError(f"--html: wanted another file than the image, got {options.html}")
    with report_out_of_memory():
        from hivis.cli import terminal

        model = load_model(options)
        stream = model.stream(prompt, images, traced=paged, **settings)
        if options.json:
            for _ in stream:
                pass
            print(json.dumps(terminal.to_json(stream.result)))
        else:
            terminal.print_stream(stream, options.show_tree)
            print(terminal.summary(stream.result), file=sys.stderr)
        if paged:
            write_page(options.html, model, stream, prompt, images)
            print(f"page: {options.html}", file=sys.stderr)


def _prompt(options: argparse.Namespace) -> str:
    if options.prompt == "-":
        return sys.stdin.read()
    if options.prompt is None:
        if options.model is not None:
            raise HivisError("--prompt: wanted a text for this model, got none")
        return PROMPT
    return options.prompt
