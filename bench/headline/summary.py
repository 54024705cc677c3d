"""From runs to rows: the figures of every group, temperature and method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from bench.common.generation import HUGGING_FACE, TimedOutput
from bench.headline.methods import PLAIN
from bench.headline.prompts import ALL

Row = dict[str, Any]
#: Method, temperature and group.
Key = tuple[str, float, str]
#: A run that took more than this times its prompt's median was disturbed.
SLOW = 1.5
PHASES = ("prefill", "draft", "verify", "accept", "compact", "commit", "read")


@dataclass(frozen=True)
class Series:
    """All runs of one method at one temperature in one group: prompt by prompt, pass by pass."""

    method: str
    temperature: float
    runs: Sequence[Sequence[TimedOutput]]
    group: str = ALL

    @property
    def key(self) -> Key:
        return self.method, self.temperature, self.group

    @property
    def is_ours(self) -> bool:
        """Whether hivis generated these outputs."""
        return all(run.generation is not None for prompt in self.runs for run in prompt)

    @property
    def typical(self) -> list[TimedOutput]:
        """The run of median time of each prompt (the faster one of the two in the middle)."""
        return [sorted(runs, key=_pace)[(len(runs) - 1) // 2] for runs in self.runs]

    @property
    def tokens_per_s(self) -> float:
        """Pooled over the prompts: all tokens over all time, first token included."""
        runs = self.typical
        return 1e3 * sum(len(r.tokens) for r in runs) / sum(r.total_ms for r in runs)

    @property
    def decoding(self) -> tuple[int, float]:
        """Pooled likewise: tokens after the first, and the milliseconds that they took."""
        runs = [sorted(runs, key=_decoding_pace)[(len(runs) - 1) // 2] for runs in self.runs]
        tokens = sum(len(r.tokens) - 1 for r in runs)
        return tokens, sum(r.total_ms - r.first_token_ms for r in runs)


def _pace(run: TimedOutput) -> float:
    return run.total_ms / len(run.tokens)


def _decoding_pace(run: TimedOutput) -> float:
    return (run.total_ms - run.first_token_ms) / max(1, len(run.tokens) - 1)


def pool(series: Sequence[Series]) -> list[Series]:
    """The same series with all their groups in one."""
    runs: dict[tuple[str, float], list[Sequence[TimedOutput]]] = {}
    for s in series:
        runs.setdefault((s.method, s.temperature), []).extend(s.runs)
    return [Series(method, temperature, found) for (method, temperature), found in runs.items()]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)]


def make_rows(series: Sequence[Series], margins: Mapping[Key, list[float]]) -> list[Row]:
    """One row per series; speed-ups are against the same group's and temperature's baselines.

    Speeds, latencies and phases are those of each prompt's median run; accepted lengths and drafter
    rows are pooled over all runs.
    """
    base = {s.key: s for s in series}
    return [
        _row(
            s,
            base.get((PLAIN, s.temperature, s.group)),
            base.get((HUGGING_FACE, s.temperature, s.group)),
            margins.get(s.key, []),
        )
        for s in series
    ]


def _row(s: Series, plain: Series | None, theirs: Series | None, margins: list[float]) -> Row:
    every = [run for prompt in s.runs for run in prompt]
    made = [run.generation.statistics for run in every if run.generation is not None]
    cycles = sum(m.cycles for m in made)
    accepted = sum(sum(m.accepted_lengths) for m in made)
    same = _identical(s, plain)
    typical = s.typical
    kept = sum(len(run.tokens) for run in typical)
    spent = [(phase, sum(_phase(run, phase) for run in typical)) for phase in PHASES]
    tokens, ms = s.decoding
    return {
        "method": s.method,
        "temperature": s.temperature,
        "group": s.group,
        "prompts": len(s.runs),
        "passes": len(s.runs[0]),
        "tokens": kept,
        "tokens_per_s": s.tokens_per_s,
        "decoding_tokens_per_s": _ratio(1e3 * tokens, ms) if tokens else None,
        "speedup_vs_plain": s.tokens_per_s / plain.tokens_per_s if plain else None,
        "speedup_vs_hf": s.tokens_per_s / theirs.tokens_per_s if theirs else None,
        "accepted_length": _ratio(accepted, cycles),
        "tokens_per_cycle": _ratio(accepted + cycles, cycles),
        "prompt_rows": fmean(m.prompt_rows for m in made) if made else None,
        "drafter_rows": fmean(m.drafter_rows for m in made) if made else None,
        "drafter_prefill_share": _ratio(
            sum(m.drafter_rows for m in made), sum(m.prompt_rows for m in made)
        ),
        "first_token_ms": _spread([r.first_token_ms for r in typical]),
        "latency_ms": _spread([r.total_ms for r in typical]),
        "phases_ms": {phase: total / len(typical) if made else None for phase, total in spent},
        "phases_ms_per_token": {phase: total / kept if made else None for phase, total in spent},
        "identical": None if same is None else same == len(s.runs),
        "identical_prompts": same,
        "margins_where_outputs_part": margins,
        "disturbed": _disturbed(s),
    }


def _phase(run: TimedOutput, phase: str) -> float:
    return 0.0 if run.generation is None else run.generation.statistics.phases_ms.get(phase, 0.0)


def _disturbed(series: Series) -> float | None:
    """The share of runs that took far longer than their prompt's median.

    ``None`` with fewer than 3 passes.
    """
    if len(series.runs[0]) < 3:
        return None
    slow = [
        _pace(run) > SLOW * median(map(_pace, prompt)) for prompt in series.runs for run in prompt
    ]
    return sum(slow) / len(slow)


def _identical(series: Series, plain: Series | None) -> int | None:
    """How many prompts have plain decoding's output in every pass.

    ``None`` without plain decoding, and where transformers draws with a noise of its own.
    """
    if plain is None or (series.temperature > 0 and not series.is_ours):
        return None
    return sum(
        all(run.tokens == theirs[0].tokens for run in mine)
        for mine, theirs in zip(series.runs, plain.runs, strict=True)
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "p95": percentile(values, 0.95)}
