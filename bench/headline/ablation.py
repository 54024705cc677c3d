"""What each part of HiViS and each tree policy brings: more rows for the comparison.

Hiding, the residual and the second stage of training are properties of a drafter's weights, so
their rows need drafters that were trained without them. The shared noise and the policy are
options of a run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.common.tables import number
from bench.headline.loading import LoadedMethods, drafted_method, load_as_asked
from bench.headline.methods import HIVIS, Method
from bench.headline.options import make_policy
from bench.headline.summary import Row, Series
from bench.headline.tables import print_rows
from hivis.bundled import paths
from hivis.drafters.config import HiViSConfig
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.inspect import inspect
from hivis.drafters.registry import recognize
from hivis.errors import HivisError

#: Row and folder of the drafters that lack a part.
WITHOUT = {
    "without hiding": "no-hiding",
    "without residual": "no-residual",
    "without stage 2": "stage-1",
}
NO_NOISE = "without shared noise"
COST, CONFIDENCE = "cost", "confidence"
FIXED, DEPTH = (8, 16, 32, 60), 7
#: How much slower than the best fixed size the cost model may be in any group.
ALLOWED = 0.03

#: Label of a row and the method that it shows.
Labels = dict[str, str]


def fixed_name(nodes: int, depth: int = DEPTH) -> str:
    return f"{nodes} / {depth}"


def add_ablations(options: argparse.Namespace, loaded: LoadedMethods) -> tuple[Labels, Labels]:
    """Add the methods of both tables to ``loaded``.

    Every method has a drafter object of its own, so that none reuses buffers of another's trees.

    Returns:
        The labels of the table of parts, and those of the table of policies.

    Raises:
        HivisError: there is no HiViS drafter, or one in ``--ablations`` is no drafter.
    """
    folder = options.drafter or (paths.HIVIS if options.model is None else None)
    if folder is None:
        raise HivisError("--ablate: wanted a HiViS drafter (--drafter), got none")
    parts = {"HiViS": HIVIS}
    for label, name in WITHOUT.items():
        given = None if options.ablations is None else options.ablations / name
        if given is None or not given.is_dir():
            where = "--ablations was not given" if given is None else f"no folder {given}"
            loaded.notes.append(f"HiViS {label} is left out: {where}")
            continue
        drafter = _load(options, loaded, given)
        _check_lacks(name, given, drafter.config)
        parts[label] = _add(
            loaded, drafted_method(f"HiViS {label}", loaded.target, drafter, options)
        )
    if any(temperature > 0 for temperature in options.temperature):
        unaware = partial(make_policy, options, noise=False)
        parts[NO_NOISE] = _add(
            loaded,
            drafted_method(
                f"HiViS {NO_NOISE}",
                loaded.target,
                _load(options, loaded, folder),
                options,
                unaware,
                sampled_only=True,
            ),
        )
    return parts, _add_policies(options, loaded, folder)


def _load(options: argparse.Namespace, loaded: LoadedMethods, folder: str | Path) -> HiViSDrafter:
    """A HiViS drafter, or one without hiding, which is an EAGLE-2 drafter by its files."""
    method = recognize(inspect(folder))
    if method.name not in ("hivis", "eagle"):
        raise HivisError(f"{folder}: wanted a HiViS drafter, got a {method.title} one")
    drafter = load_as_asked(options, folder, loaded.target, loaded.processor, method)
    assert isinstance(drafter, HiViSDrafter)
    return drafter


def _check_lacks(name: str, folder: Path, config: HiViSConfig) -> None:
    """HivisError unless the drafter was trained without the part."""
    if name == "no-hiding" and config.rows != "all":
        raise HivisError(f"{folder}: rows: wanted 'all' of a drafter without hiding, got 'text'")
    if name == "no-residual" and config.residual_rows:
        raise HivisError(
            f"{folder}: residual_rows: wanted 0 of a drafter without residual, "
            f"got {config.residual_rows}"
        )


def _add_policies(options: argparse.Namespace, loaded: LoadedMethods, folder: str | Path) -> Labels:
    choices = {fixed_name(nodes): {"policy": "fixed", "nodes": nodes} for nodes in FIXED}
    choices |= {CONFIDENCE: {"policy": CONFIDENCE}, COST: {"policy": COST}}
    chosen = options.policy
    if chosen == "fixed":
        chosen = fixed_name(options.nodes, options.depth)
    shown = {}
    for label, choice in choices.items():
        if label == chosen:  # HiViS runs with it anyway
            shown[label] = HIVIS
            continue
        changed = {"depth": DEPTH} | choice
        theirs = argparse.Namespace(**{**vars(options), **changed})
        drafter = _load(options, loaded, folder)
        method = drafted_method(f"HiViS, {label}", loaded.target, drafter, theirs)
        shown[label] = _add(loaded, method)
    return shown


def _add(loaded: LoadedMethods, method: Method) -> str:
    loaded.methods.append(method)
    return method.name


def print_ablation(
    title: str, labels: Labels, rows: Sequence[Row], group: str, console: Console
) -> None:
    """One table: what each label shows in this group, temperature by temperature."""
    chosen = [
        row | {"method": label}
        for temperature in dict.fromkeys(row["temperature"] for row in rows)
        for label, method in labels.items()
        for row in rows
        if (row["method"], row["temperature"], row["group"]) == (method, temperature, group)
    ]
    cells = [
        (
            number(row["accepted_length"], "{:.2f}"),
            f"{row['tokens_per_s']:.1f}",
            number(row["decoding_tokens_per_s"], "{:.1f}"),
            number(row["speedup_vs_plain"], "{:.2f}x"),
        )
        for row in chosen
    ]
    columns = ("accepted", "tokens/s", "decoding", "over plain")
    print_rows(console, f"{group}: {title}", columns, chosen, cells)


def judge(series: Sequence[Series], policies: Labels) -> dict[str, Any]:
    """The cost model against the best fixed size: in each group, and over all prompts.

    Returns:
        By measure (with prefill, and decoding alone): every group and temperature, the worst of
        these, the mix of all, and whether the claim of ``ALLOWED`` holds. ``lead`` is how much
        faster the cost model is than the best fixed size there, less than 0 if it is slower.
    """
    places = dict.fromkeys((s.group, s.temperature) for s in series)
    found: dict[str, Any] = {}
    for measure, speed in (("with prefill", _speed), ("decoding alone", _decoding_speed)):
        groups: list[dict[str, Any]] = [
            {"group": group, "temperature": temperature}
            | _lead(
                {
                    label: speed([s for s in series if s.key == (method, temperature, group)])
                    for label, method in policies.items()
                }
            )
            for group, temperature in places
        ]
        mix = _lead(
            {
                label: speed([s for s in series if s.method == method])
                for label, method in policies.items()
            }
        )
        worst = min(groups, key=lambda entry: entry["lead"])
        found[measure] = {
            "groups": groups,
            "worst": worst,
            "mix": mix,
            "within": worst["lead"] >= -ALLOWED,
            "faster_on_the_mix": mix["lead"] > 0,
        }
    return found


def _lead(speeds: dict[str, float]) -> dict[str, Any]:
    fixed = {label: speeds[label] for label in map(fixed_name, FIXED)}
    best = max(fixed, key=lambda label: fixed[label])
    lead = speeds[COST] / fixed[best] - 1 if fixed[best] else 0.0
    return {"best_fixed": best, "lead": lead, "tokens_per_s": speeds}


def _speed(series: Sequence[Series]) -> float:
    return Series("", 0.0, [prompt for s in series for prompt in s.runs]).tokens_per_s


def _decoding_speed(series: Sequence[Series]) -> float:
    tokens, ms = Series("", 0.0, [prompt for s in series for prompt in s.runs]).decoding
    return 1e3 * tokens / ms if tokens else 0.0


def verdict_lines(verdict: dict[str, Any]) -> list[str]:
    """The result of :func:`judge` in sentences."""
    lines = []
    for measure, found in verdict.items():
        worst, mix = found["worst"], found["mix"]
        lines.append(
            f"Cost model against the best fixed size, {measure}: at worst {worst['lead']:+.1%} "
            f"({worst['group']}, T = {worst['temperature']:g}, against {worst['best_fixed']}), "
            f"over all prompts {mix['lead']:+.1%} (against {mix['best_fixed']}). Never more than "
            f"{ALLOWED:.0%} slower: {_yes(found['within'])}; faster on the mix: "
            f"{_yes(found['faster_on_the_mix'])}."
        )
    return lines


def _yes(value: bool) -> str:
    return "yes" if value else "no"
