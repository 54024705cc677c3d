"""``hivis generate``: answer one prompt."""

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
from hivis.cli.terminal import print_stream, summary, to_json
from hivis.errors import HivisError
from hivis.page import write_page
from hivis.page.write import check_writable

PROMPT = "Describe this image in detail and explain each thing."
ABOUT = """Answer a prompt about images, and print tokens as soon as they are accepted.

The output goes to stdout, one line of statistics to stderr. Without --model, the small model that
is bundled with hivis answers, by default about a bundled image."""
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
    add("--prompt", metavar="TEXT", help="the prompt; - reads it from stdin")
    add(
        "--image",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="images for the prompt",
    )
    add("--json", action="store_true", help="print one JSON object: text, tokens, statistics")
    add(
        "--show-tree",
        action="store_true",
        help="color the drafted and accepted tokens, and those that the target drew itself",
    )
    add(
        "--html",
        metavar="PATH",
        help="write an HTML page about the run: images, output, draft trees, times (one file)",
    )
    add_model(parser)
    add_settings(parser)


def generate(options: argparse.Namespace) -> None:
    if options.json and options.show_tree:
        raise HivisError("--show-tree: wanted an output to color, got --json")
    with_page = options.html is not None
    if with_page:
        check_writable(options.html, "--html")
    settings = given_settings(options)
    prompt, images = _prompt(options), images_of(options)
    if with_page and any(same_file(options.html, image) for image in images):
        raise HivisError(f"--html: wanted another file than the image, got {options.html}")
    with report_out_of_memory():
        model = load_model(options)
        stream = model.stream(prompt, images, traced=with_page, **settings)
        if options.json:
            for _ in stream:
                pass
            print(json.dumps(to_json(stream.result)))
        else:
            print_stream(stream, options.show_tree)
            print(summary(stream.result), file=sys.stderr)
        if with_page:
            write_page(options.html, model, stream, prompt, images)
            print(f"page: {options.html}", file=sys.stderr)


def _prompt(options: argparse.Namespace) -> str:
    if options.prompt == "-":
        return sys.stdin.read()
    if options.prompt is None:
        if options.model is not None:
            raise HivisError("--prompt: wanted one for this model, got none")
        return PROMPT
    return options.prompt
