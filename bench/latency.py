"""The main job: how much sooner the same text is there.

    python bench/latency.py                          the embedded model, T = 0 and T = 1
    python bench/latency.py --model PATH --drafter PATH --dtype bfloat16
    python bench/latency.py --image cat.png --prompt "What is in the picture?"

Every prompt is run by every method in turn, in an order that rotates from prompt to prompt, so that
a machine that slows down slows all of them. Both baselines and hivis see the same token ids, count
the same new tokens (up to and with EOS) and include the picture's encoding and the prefill.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts a script's own folder first on the path, where kernels.py would pass for the
    # package of that name that transformers looks for.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.machine import commit, device_name, has_fast_bfloat16, set_up, versions
from bench.margins import margin_where_they_part
from bench.methods import (
    HUGGING_FACE,
    PLAIN,
    Method,
    Run,
    hivis_method,
    hugging_face_method,
)
from bench.report import Series, check_plot, check_writable, make_rows, print_table, write_json
from hivis.decode import check_context
from hivis.drafters.load import load_drafter
from hivis.errors import HivisError, run_cli
from hivis.policies.confidence import ConfidencePolicy
from hivis.policies.cost import CostPolicy
from hivis.policy import Policy, TreePolicy
from hivis.sampling import SamplingParams
from hivis.targets.base import Inputs
from hivis.targets.load import PromptProcessor, load_model, load_target
from hivis.tiny import paths
from hivis.tiny.prompts import heldout

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

TREE = TreePolicy()


@dataclass(frozen=True)
class Case:
    """A prompt of the benchmark."""

    name: str
    inputs: Inputs


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", help="folder or hub name of a VLM (default: the embedded one)")
    model.add_argument("--drafter", help="folder of a HiViS drafter (default: the embedded one)")
    model.add_argument("--eagle", help="folder of an EAGLE-2 style drafter that sees the picture")
    model.add_argument("--device", default="cpu")
    model.add_argument(
        "--dtype", choices=DTYPES, help="default: bfloat16 where the device has it, else float32"
    )
    model.add_argument("--threads", type=int, help="threads of the CPU (default: torch's)")
    tree = parser.add_argument_group("draft tree (nodes and depth are those of --policy fixed)")
    tree.add_argument(
        "--policy", choices=("fixed", "confidence", "cost"), default="fixed",
        help="how the size of every tree is chosen",
    )  # fmt: skip
    tree.add_argument("--nodes", type=int, default=TREE.nodes, help="N, the root included")
    tree.add_argument("--depth", type=int, default=TREE.depth)
    tree.add_argument("--tree-top-k", type=int, default=TREE.top_k, help="nodes expanded per level")
    tree.add_argument(
        "--sharpness", type=float, default=TREE.sharpness, help="of path scores at T > 0"
    )
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--temperature", type=float, nargs="+", default=[0.0, 1.0])
    sampling.add_argument("--top-k", type=int, default=0)
    sampling.add_argument("--top-p", type=float, default=1.0)
    sampling.add_argument("--seed", type=int, default=0)
    sampling.add_argument("--max-new-tokens", type=int, default=160)
    prompts = parser.add_argument_group("prompts (default: the embedded held-out ones)")
    prompts.add_argument("--prompts", type=Path, help="JSON Lines with prompt and image (a path)")
    prompts.add_argument("--prompt", help="one prompt of your own")
    prompts.add_argument("--image", action="append", default=[], help="its picture (repeatable)")
    prompts.add_argument("--count", type=int, default=16, help="at most this many prompts")
    out = parser.add_argument_group("output")
    out.add_argument("--json", type=Path, help="write everything here")
    out.add_argument("--plot", type=Path, help="draw the rows here (.png, .svg, .pdf)")
    out.add_argument("--no-hf", action="store_true", help="leave out the Hugging Face rows")
    return parser.parse_args(arguments)


def load_cases(options: argparse.Namespace, processor: PromptProcessor) -> list[Case]:
    """The prompts to run, ready as token ids and pixels; HivisError for any that is bad."""
    if options.image and options.prompt is None:
        raise HivisError("--image: wanted a --prompt to go with it, got none")
    if options.prompts and options.prompt is not None:
        raise HivisError("--prompts: wanted either a file or a --prompt, got both")
    if options.count < 1:
        raise HivisError(f"--count: wanted at least 1, got {options.count}")
    if options.prompt is not None:
        return [Case("prompt", processor(options.prompt, options.image))]
    if options.prompts:
        cases = _read_prompts(options.prompts, processor, options.count)
    else:
        long = [item for item in heldout() if item.kind == "long"]
        cases = [
            Case(item.id, processor(item.prompt, [item.image] if item.image else []))
            for item in long[: options.count]
        ]
    if not cases:
        raise HivisError(f"--prompts {options.prompts}: wanted at least one prompt, got none")
    return cases


def _read_prompts(path: Path, processor: PromptProcessor, count: int) -> list[Case]:
    """Lines of ``{"prompt": ..., "image": ...}``: paths are seen from the file's folder."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HivisError(f"--prompts {path}: cannot be read ({error})") from None
    cases = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if len(cases) == count:
            break
        try:
            entry = json.loads(line)
            prompt, images = str(entry["prompt"]), entry.get("image") or []
            images = [images] if isinstance(images, str) else images
            pictures = [path.parent / image for image in images]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise HivisError(
                f'{path}:{number}: wanted a JSON object with "prompt" and "image", got {line[:60]}'
            ) from None
        cases.append(Case(f"{path.name}:{number}", processor(prompt, pictures)))
    return cases


def make_policy(options: argparse.Namespace) -> Policy:
    """The policy of the drafted rows. Adaptive ones keep their own sizes and depths."""
    fixed = TreePolicy(options.nodes, options.depth, options.tree_top_k, options.sharpness)
    if options.policy == "confidence":
        return ConfidencePolicy(top_k=fixed.top_k, sharpness=fixed.sharpness)
    if options.policy == "cost":
        return CostPolicy(top_k=fixed.top_k, sharpness=fixed.sharpness)
    return fixed


def load_methods(options: argparse.Namespace) -> tuple[list[Method], PromptProcessor, Any]:
    """Load everything once. The Hugging Face rows get a model object of their own."""
    dtype = DTYPES[options.dtype]
    path = options.model or paths.TARGET
    target, processor = load_target(path, dtype, options.device)
    policy = make_policy(options)
    methods = []
    if not options.no_hf:
        model = load_model(path, dtype, options.device)
        methods += [
            hugging_face_method(HUGGING_FACE, model),
            hugging_face_method(
                "HF prompt lookup",
                model,
                prompt_lookup_num_tokens=5,
                # The rows of the picture repeat too; looked up, they would be drafted.
                suppress_tokens=[model.config.image_token_id],
            ),
        ]
    methods.append(hivis_method(PLAIN, target, None, None))
    for name, given, default in (
        ("hivis + EAGLE-2", options.eagle, paths.EAGLE),
        ("hivis + HiViS", options.drafter, paths.HIVIS),
    ):
        folder = given or (default if options.model is None else None)
        if folder is not None:
            drafter = load_drafter(folder)
            drafter.bind(target.embedding, target.head)
            # A cost model measures its times in its first 150 cycles: not while it is timed itself.
            warm_ups = 10 if options.policy == "cost" else 1
            methods.append(hivis_method(name, target, drafter, policy, warm_ups))
    return methods, processor, target


def measure(
    methods: Sequence[Method], cases: Sequence[Case], settings: Sequence[SamplingParams],
    console: Console,
) -> list[Series]:  # fmt: skip
    """Run every method on every prompt at every temperature, interleaved."""
    runs: dict[tuple[str, float], list[Run]] = {
        (method.name, params.temperature): [] for params in settings for method in methods
    }
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        warm = progress.add_task("warm-up", total=len(methods) * len(settings))
        for params in settings:
            for method in methods:
                for _ in range(method.warm_ups):
                    method.run(cases[0].inputs, params)
                progress.advance(warm)
        bar = progress.add_task("measuring", total=len(cases) * len(settings) * len(methods))
        for turn, case in enumerate(cases):
            first = turn % len(methods)
            for params in settings:
                for method in [*methods[first:], *methods[:first]]:
                    runs[method.name, params.temperature].append(method.run(case.inputs, params))
                    progress.advance(bar)
    return [Series(name, temperature, done) for (name, temperature), done in runs.items()]


def find_margins(
    series: Sequence[Series], cases: Sequence[Case], settings: Sequence[SamplingParams], target: Any
) -> dict[tuple[str, float], list[float]]:
    """Where a hivis text parts from plain decoding's: how close the two tokens were there."""
    margins: dict[tuple[str, float], list[float]] = {}
    by_key = {(s.method, s.temperature): s for s in series}
    for params in settings:
        plain = by_key[PLAIN, params.temperature]
        for s in series:
            if s.temperature != params.temperature or s.runs[0].generation is None:
                continue
            for case, mine, theirs in zip(cases, s.runs, plain.runs, strict=True):
                if mine.tokens == theirs.tokens:
                    continue
                try:
                    margin = margin_where_they_part(
                        target, case.inputs, mine.tokens, theirs.tokens, params
                    )
                except HivisError:  # a sampled text may hold a placeholder, which no prompt may
                    continue
                margins.setdefault((s.method, s.temperature), []).append(margin)
    return margins


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    console = Console()
    check_writable(options.json, "--json")
    check_writable(options.plot, "--plot")
    check_plot(options.plot)
    set_up(options.device, options.threads)
    if options.dtype is None:
        options.dtype = "bfloat16" if has_fast_bfloat16(options.device) else "float32"
    settings = [
        SamplingParams(
            temperature=temperature, top_k=options.top_k, top_p=options.top_p, seed=options.seed,
            max_new_tokens=options.max_new_tokens,
        )
        for temperature in dict.fromkeys(options.temperature)
    ]  # fmt: skip
    methods, processor, target = load_methods(options)
    cases = load_cases(options, processor)
    for case in cases:  # a text that does not fit should be known before the others are measured
        check_context(target, case.inputs, settings[0])

    header = {
        "device": device_name(options.device),
        "versions": versions(),
        "commit": commit(),
        "settings": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(options).items()
            if key not in ("json", "plot")
        },
    }
    console.print(f"{header['device']}, commit {header['commit']}")
    console.print(", ".join(f"{name} {number}" for name, number in header["versions"].items()))
    console.print(
        f"{options.model or 'embedded model'}, {options.dtype}, {len(cases)} prompts, at most "
        f"{options.max_new_tokens} new tokens, "
        + (
            f"trees of {options.nodes} nodes, depth {options.depth}"
            if options.policy == "fixed"
            else f"trees by {options.policy}"
        )
    )
    series = measure(methods, cases, settings, console)
    rows = make_rows(series, find_margins(series, cases, settings, target))
    print_table(rows, console)
    if options.json:
        write_json(options.json, {**header, "rows": rows})
    if options.plot:
        from bench.plot import draw, title_of

        draw(rows, options.plot, title_of(header))


if __name__ == "__main__":
    run_cli(main)
