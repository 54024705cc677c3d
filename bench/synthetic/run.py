"""The run behind ``bench/latency.py --shape``: a model of real size with random weights.

What a cycle takes does not depend on what the weights are; what it accepts does, and is therefore
replayed (``bench/synthetic/simulated_acceptance.py``). Medians; all methods take turns.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress as Bar

from bench.headline.methods import HUGGING_FACE
from bench.headline.options import DTYPES
from bench.synthetic.accepted_lengths import mean_of, parse_accepted
from bench.synthetic.configs import Shape, shape_of
from bench.synthetic.cycles import DRAFTED, PLAIN, Cycles, Pair, Running, measure_cycles, modes
from bench.synthetic.figures import checks, copy_gb_per_s, goals, speedups, streamed_bytes
from bench.synthetic.generations import measure_texts
from bench.synthetic.options import is_quantized
from bench.synthetic.phases import measure_parts
from bench.synthetic.published import PUBLISHED
from bench.synthetic.random_models import (
    drafter_config,
    image_rows,
    random_head,
    random_prompt,
    random_target,
    random_tensors,
)
from bench.synthetic.simulated_acceptance import CYCLES, LABEL, Replay, TreeForm, shaped_drafter
from bench.synthetic.tables import print_prompt, print_run
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.core.tree_shape import TreeShape
from hivis.drafters.config import LayerConfig
from hivis.engine.engine import Engine

#: N of the passes that are timed, beside that of the trees; and where each has to be compiled.
SIZES, COMPILED_SIZES = (1, 8, 16, 32, 60, 64, 128), (1,)
#: Cycles of a round, rounds and seconds for the parts; and of a trial run.
AMOUNT, TRIAL = (20, 9, 4.0), (5, 2, 0.2)


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Everything that the JSON document says beside its header."""
    shape = shape_of(options.shape, options.scale, options.layers)
    accepted = parse_accepted(options.accepted, options.depth)
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    bandwidth = copy_gb_per_s(device, dtype)
    lengths = accepted.draw(CYCLES)
    pair, config = make_pair(shape, lengths, options, dtype, device)
    document: dict[str, Any] = {
        "label": LABEL,
        "shape": {"name": shape.name, "model": shape.model, "scaled": shape.scaled},
        "accepted": {
            "source": accepted.source,
            "shares": list(accepted.shares),
            "mean": accepted.mean,
            "drawn_mean": mean_of(lengths),
        },
        "published": [asdict(one) for one in PUBLISHED[shape.name]],
        "copy_gb_per_s": bandwidth,
        "prompts": [],
    }
    print_run(document, console)
    for rows in options.prompt_rows:
        inputs = random_prompt(shape, pair.target, rows)
        figures = measure_prompt(pair, config, inputs, options, document, console)
        document["prompts"].append(figures)
        print_prompt(figures, console)
    return document


def make_pair(
    shape: Shape,
    lengths: Sequence[int],
    options: argparse.Namespace,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Pair, LayerConfig]:
    """Target and drafter with random weights, and what the drafter's sizes are."""
    target = random_target(shape, dtype, device)
    if options.compile:
        target.compile()
    form = TreeForm.of(TreeShape(options.nodes, options.depth, options.tree_top_k), device)
    config = drafter_config(shape, options.drafter)
    drafter = shaped_drafter(config, random_tensors(config, dtype, device), form)
    drafter.quantize(options.drafter_weights, random_head(config, options.draft_vocab))
    return Pair(target, drafter, form, Replay(lengths, form)), config


def measure_prompt(
    pair: Pair,
    config: LayerConfig,
    inputs: Inputs,
    options: argparse.Namespace,
    about: dict[str, Any],
    console: Console,
) -> dict[str, Any]:
    """All figures for one prompt; ``about`` is what the document says of all of them."""
    bandwidth, mean = about["copy_gb_per_s"], about["accepted"]["drawn_mean"]
    cycles, rounds, seconds = TRIAL if options.quick else AMOUNT
    sizes = sorted({*(COMPILED_SIZES if options.compile else SIZES), options.nodes})
    with Bar(console=console, transient=True) as bar:
        params = SamplingParams(max_new_tokens=options.max_new_tokens, eos_token_ids=())
        Engine(pair.target).check_context(inputs, params)
        texts = measure_texts(
            pair, inputs, params, options.repeat, not options.no_hf, options.hf_static, bar
        )
        room = max(cycles * (options.depth + 1), *sizes)
        params = SamplingParams(max_new_tokens=room, eos_token_ids=())
        measured: dict[tuple[str, str], Cycles] = {}
        for mode in modes(pair.device):  # one after the other: each has the memory to itself
            running = {kind: Running(pair, kind, mode, inputs, params) for kind in (PLAIN, DRAFTED)}
            for kind, found in measure_cycles(running, cycles, rounds, bar).items():
                measured[kind, mode] = found
        parts, failed = measure_parts(running[DRAFTED], sizes, seconds)
    streamed = streamed_bytes(
        pair.target.model.config,
        config,
        pair.form.shape,
        inputs.length,
        mean,
        pair.target.dtype,
        options.drafter_weights,
        options.draft_vocab,
    )
    floors = {name: size / bandwidth / 1e6 for name, size in streamed.items()}
    theirs = next((row["ms_per_token"] for row in texts if row["method"] == HUGGING_FACE), None)
    lengths = sorted({*map(float, range(options.depth + 1)), mean})
    return {
        "prompt_rows": inputs.length,
        "image_rows": image_rows(pair.target, inputs),
        "nodes": options.nodes,
        "texts": texts,
        "cycles": [
            {"loop": kind, "mode": mode, **asdict(found)}
            for (kind, mode), found in measured.items()
        ],
        "parts_ms": parts,
        "failed": failed,
        "streamed_bytes": streamed,
        "floors_ms": floors,
        "speedups": speedups(measured, theirs, lengths),
        "checks": checks(measured, texts),
        "memory_bytes": memory(pair),
        "goals": goals(measured, parts, floors, theirs, options.nodes, is_quantized(options))
        if pair.device.type == "cuda"
        else [],
    }


def memory(pair: Pair) -> dict[str, int]:
    """Bytes of the target's weights, of what a level of a tree reads of its drafter's and the head,
    and of a text's slab; on a CPU also what the process took most. On a GPU each text has its peak.
    """
    found = {
        "target": sum(map(_bytes, pair.target.model.parameters())),
        "drafter's level": pair.drafter.level_bytes,
        "slab": _bytes(pair.target.cache.kv),
    }
    if pair.device.type != "cuda":
        found["resident"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
