"""The run of a model of real size: measure, compute, print.

All figures are medians, and all methods take turns.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from bench.common.ceilings import copy_gb_per_s
from bench.common.generation import HUGGING_FACE
from bench.synthetic.accepted_lengths import mean_of, parse_accepted
from bench.synthetic.configs import ModelShape, shape_of
from bench.synthetic.cycles import (
    DRAFTED,
    PLAIN,
    CycleTimes,
    Pair,
    RewindableLoop,
    measure_cycles,
    modes,
)
from bench.synthetic.drafters import random_draft_vocab, random_drafter
from bench.synthetic.figures import checks, goals, speedups, streamed_bytes
from bench.synthetic.generations import measure_outputs
from bench.synthetic.phases import measure_parts
from bench.synthetic.published import PUBLISHED
from bench.synthetic.random_models import image_rows, random_prompt, random_target
from bench.synthetic.simulated_acceptance import CYCLES, LABEL, FixedTree, Replay, fix_trees
from bench.synthetic.tables import print_prompt, print_run
from hivis.core.device import DTYPES
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.core.tree_shape import TreeShape
from hivis.engine.engine import Engine

#: N of the timed passes, beside that of the trees; and the same where each has to be compiled.
SIZES, COMPILED_SIZES = (1, 8, 16, 32, 60, 64, 128), (1,)
#: Cycles of a round, rounds, and seconds for the parts; and the same of a trial run.
AMOUNT, TRIAL = (20, 9, 4.0), (5, 2, 0.2)


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measure and print; returns all figures of the JSON document."""
    shape = shape_of(options.shape, options.scale, options.layers)
    accepted = parse_accepted(options.accepted, options.depth)
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    bandwidth = copy_gb_per_s(device)
    lengths = accepted.draw(CYCLES)
    pair = make_pair(shape, lengths, options, dtype, device)
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
        figures = measure_prompt(pair, inputs, options, document, console)
        document["prompts"].append(figures)
        print_prompt(figures, console)
    return document


def make_pair(
    shape: ModelShape,
    lengths: Sequence[int],
    options: argparse.Namespace,
    dtype: torch.dtype,
    device: torch.device,
) -> Pair:
    """Target and drafter with random weights."""
    target = random_target(shape, dtype, device)
    if options.compile:
        target.compile()
    tree = FixedTree.of(TreeShape(options.nodes, options.depth, options.tree_top_k), device)
    drafter = random_drafter(shape, options.drafter, dtype, device)
    fix_trees(drafter, tree)
    vocab = random_draft_vocab(drafter.config.vocab_size, options.draft_vocab)
    drafter.quantize(options.drafter_weights, vocab)
    return Pair(target, drafter, tree, Replay(lengths, tree))


def measure_prompt(
    pair: Pair, inputs: Inputs, options: argparse.Namespace, about: dict[str, Any], console: Console
) -> dict[str, Any]:
    """All figures of one prompt; ``about`` is the part of the document that all prompts share."""
    bandwidth, mean = about["copy_gb_per_s"], about["accepted"]["drawn_mean"]
    cycles, rounds, seconds = TRIAL if options.quick else AMOUNT
    sizes = sorted({*(COMPILED_SIZES if options.compile else SIZES), options.nodes})
    with Progress(console=console, transient=True) as bar:
        params = SamplingParams(max_new_tokens=options.max_new_tokens, eos_token_ids=())
        Engine(pair.target).check_context(inputs, params)
        outputs = measure_outputs(
            pair, inputs, params, options.repeat, not options.no_hf, options.hf_static, bar
        )
        room = max(cycles * (options.depth + 1), *sizes)
        params = SamplingParams(max_new_tokens=room, eos_token_ids=())
        measured: dict[tuple[str, str], CycleTimes] = {}
        for mode in modes(pair.device):  # one mode after another: each has the memory to itself
            loops = {
                kind: RewindableLoop(pair, kind, mode, inputs, params) for kind in (PLAIN, DRAFTED)
            }
            for kind, found in measure_cycles(loops, cycles, rounds, bar).items():
                measured[kind, mode] = found
        parts, failed = measure_parts(loops[DRAFTED], sizes, seconds)
    streamed = streamed_bytes(
        pair.target.model.config,
        pair.drafter.config,
        pair.tree.shape,
        inputs.length,
        mean,
        pair.target.dtype,
        options.drafter_weights,
        options.draft_vocab,
    )
    floors = {name: size / bandwidth / 1e6 for name, size in streamed.items()}
    theirs = next((row["ms_per_token"] for row in outputs if row["method"] == HUGGING_FACE), None)
    quantized = options.drafter_weights != "full" or options.draft_vocab is not None
    lengths = sorted({*map(float, range(options.depth + 1)), mean})
    return {
        "prompt_rows": inputs.length,
        "image_rows": image_rows(pair.target, inputs),
        "nodes": options.nodes,
        "outputs": outputs,
        "cycles": [
            {"loop": kind, "mode": mode, **asdict(found)}
            for (kind, mode), found in measured.items()
        ],
        "parts_ms": parts,
        "failed": failed,
        "streamed_bytes": streamed,
        "floors_ms": floors,
        "speedups": speedups(measured, theirs, lengths),
        "checks": checks(measured, outputs),
        "memory_bytes": memory(pair),
        "goals": goals(measured, parts, floors, theirs, options.nodes, quantized)
        if pair.device.type == "cuda"
        else [],
    }


def memory(pair: Pair) -> dict[str, int]:
    """Bytes of the target's weights, of all that a level of a tree reads, and of the target's slab.

    On a CPU also the peak of the process; on a GPU every output has a peak of its own.
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
