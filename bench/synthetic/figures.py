"""What is computed from the times of a run: floors, speed-ups, goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bench.common.goals import Goal, at_least, at_most, judge_goal
from bench.common.level_bytes import LevelSizes, bytes_of_level
from bench.synthetic.cycles import DRAFTED, EAGER, GRAPH, PLAIN, CycleTimes
from bench.synthetic.phases import PASS
from hivis.core.tree_shape import TreeShape
from hivis.drafters.config import LayerConfig

#: The accepted length at which speed-ups are compared with the goals.
AT = 3.0
#: ``draft`` includes the growth of the tree.
GOALS: Sequence[Goal] = (
    at_most("verify over plain step", 1.10),
    at_most("draft over its weights", 1.3),
    at_most("neither model's pass, of verify", 0.05),
    at_least("over plain", 2.65),
    at_least("over plain, quantized", 3.2),
    at_least("over Hugging Face", 5.0),
)


def streamed_bytes(
    config: Any,
    drafter: LayerConfig,
    tree: TreeShape,
    rows: int,
    accepted: float,
    dtype: torch.dtype,
    weights: str = "full",
    draft_vocab: int | None = None,
) -> dict[str, float]:
    """Bytes that each phase of a cycle has to read (compaction: to read and to write).

    A pass of the target reads the cache and all weights of the language model except the
    embedding, of which it reads a few rows. A level of a tree reads the drafter's matrices and its
    head.

    Args:
        config: of the target.
        drafter: of its drafter.
        tree: the shape of the trees.
        rows: in the target's cache.
        accepted: the mean accepted length.
        dtype: of the target, and of a drafter that is not quantized.
        weights: format of the drafter's weights (:mod:`hivis.drafters.quantize`).
        draft_vocab: tokens of its draft vocabulary; ``None``: all.
    """
    text = config.get_text_config()
    e, heads = text.hidden_size, text.num_attention_heads
    keys = text.num_key_value_heads * (e // heads)
    biases = e + 2 * keys if drafter.attention_bias else 0  # it has them where its target does
    layer = e * (2 * e + 2 * keys + 3 * text.intermediate_size + 2) + biases
    row = 2 * text.num_hidden_layers * keys
    numbers = {
        "verify": text.num_hidden_layers * layer + e + text.vocab_size * e + rows * row,
        "accept": tree.nodes * text.vocab_size,
        "compact": 2 * (accepted + 1) * row,
    }
    width = drafter.head_dim
    sizes = LevelSizes(
        drafter.hidden_size,
        drafter.intermediate_size,
        drafter.num_attention_heads * width,
        drafter.num_key_value_heads * width,
        drafter.vocab_size,
    )
    own = bytes_of_level(sizes, weights, 0, dtype)
    level = bytes_of_level(sizes, weights, draft_vocab, dtype)
    drafting = {"draft": (tree.depth - 1) * level + level - own, "commit": own}
    return {phase: dtype.itemsize * count for phase, count in numbers.items()} | drafting


def speedups(
    cycles: Mapping[tuple[str, str], CycleTimes], theirs_ms: float | None, lengths: Sequence[float]
) -> list[dict[str, Any]]:
    """By accepted length and mode: ``(length + 1) * step / cycle``."""
    rows = []
    for length in lengths:
        for (kind, mode), cycle in cycles.items():
            if kind != DRAFTED:
                continue
            per_token = cycle.ms / (length + 1)
            rows.append(
                {
                    "accepted_length": length,
                    "mode": mode,
                    "over_plain": cycles[PLAIN, mode].ms / per_token,
                    "over_hf": None if theirs_ms is None else theirs_ms / per_token,
                }
            )
    return rows


def goals(
    cycles: Mapping[tuple[str, str], CycleTimes],
    parts: Mapping[str, Mapping[str, float]],
    floors: Mapping[str, float],
    theirs_ms: float | None,
    nodes: int,
    quantized: bool,
) -> list[dict[str, Any]]:
    """The goals of a run on a GPU, judged by the cycles in graphs if there are any.

    A ``quantized`` drafter has a higher goal.
    """
    mode = GRAPH if (DRAFTED, GRAPH) in cycles else EAGER
    part, step, cycle = parts[mode], cycles[PLAIN, mode].ms, cycles[DRAFTED, mode].ms
    gain, other = ("over plain, quantized", "over plain")[:: 1 if quantized else -1]
    values = {gain: (AT + 1) * step / cycle}
    if theirs_ms is not None:
        values["over Hugging Face"] = (AT + 1) * theirs_ms / cycle
    verify = part.get(PASS.format(nodes))
    if verify is not None:
        values["verify over plain step"] = verify / step
    if "draft" in part:
        values["draft over its weights"] = part["draft"] / floors["draft"]
    if verify is not None and {"draft", "growth", "commit"} <= part.keys():
        passes = verify + part["draft"] - part["growth"] + part["commit"]
        values["neither model's pass, of verify"] = (cycle - passes) / verify
    return [{"mode": mode, **judge_goal(goal, values)} for goal in GOALS if goal.figure != other]


def checks(
    cycles: Mapping[tuple[str, str], CycleTimes], outputs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Whole outputs against the formula.

    By mode: how much faster the tokens after the first came, and the speed-up that
    :func:`speedups` gives for the accepted length of the output.
    """
    by_key = {(row["method"], row["mode"]): row for row in outputs}
    found = []
    for (method, mode), row in by_key.items():
        if method == DRAFTED:
            step, cycle = cycles[PLAIN, mode].ms, cycles[DRAFTED, mode].ms
            found.append(
                {
                    "mode": mode,
                    "accepted_length": row["accepted_length"],
                    "by_outputs": by_key[PLAIN, mode]["ms_per_token"] / row["ms_per_token"],
                    "by_formula": (row["accepted_length"] + 1) * step / cycle,
                }
            )
    return found
