"""From runs to figures, without a model: medians, the verdict, whose turn it is, computed rows."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from bench.common.files import write_json
from bench.common.generation import TimedOutput
from bench.headline import compare_plot
from bench.headline import prefill_rows as prefill
from bench.headline.ablation import ALLOWED, fixed_name, judge, verdict_lines
from bench.headline.measure import measure
from bench.headline.methods import HIVIS, PLAIN, Method
from bench.headline.prefill_rows import llava, llava_next, prefill_rows, qwen
from bench.headline.prompts import BenchPrompt, mixed
from bench.headline.summary import Series, make_rows, pool
from hivis.bundled.prompts import held_out_prompts
from hivis.core.sampling import SamplingParams
from hivis.engine.results import Generation, Statistics
from hivis.errors import HivisError


def run_of(tokens: int, ms: float, first: float = 10.0) -> TimedOutput:
    made = Statistics(
        cycles=tokens - 1,
        accepted_lengths=(0,) * (tokens - 1),
        prompt_rows=40,
        drafter_rows=10,
        first_token_ms=first,
        total_ms=ms,
        phases_ms={"prefill": first, "verify": ms - first},
    )
    return TimedOutput((7,) * tokens, first, ms, Generation((7,) * tokens, made))


def test_of_repeated_runs_the_median_counts():
    prompts = [
        [run_of(10, 900.0), run_of(10, 100.0), run_of(10, 110.0)],
        [run_of(5, 60.0), run_of(5, 50.0), run_of(5, 55.0)],
    ]
    (row,) = make_rows([Series("m", 0.0, prompts)], {})
    assert row["tokens_per_s"] == pytest.approx(1e3 * 15 / (110 + 55))
    assert row["decoding_tokens_per_s"] == pytest.approx(1e3 * 13 / (100 + 45))
    assert row["phases_ms"]["verify"] == pytest.approx((100 + 45) / 2)
    assert row["phases_ms_per_token"]["prefill"] == pytest.approx(20 / 15)
    assert row["passes"] == 3 and row["disturbed"] == pytest.approx(1 / 6)
    assert row["speedup_vs_plain"] is None and row["speedup_vs_hf"] is None


def judged(cost: dict[str, float]):
    """Fixed sizes at 1000 ms per output, but 32 / 7 at 950; the cost model as given, by group."""
    policies = {fixed_name(n): f"f{n}" for n in (8, 16, 32, 60)} | {"cost": "c"}
    series = [
        Series(name, 0.0, [[run_of(10, 950.0 if name == "f32" else 1000.0)]], group)
        for name in policies.values()
        if name != "c"
        for group in cost
    ]
    series += [Series("c", 0.0, [[run_of(10, ms)]], group) for group, ms in cost.items()]
    return judge(series, policies)


def test_the_verdict_names_the_worst_group():
    found = judged({"long": 800.0, "short": 990.0})
    speed = found["with prefill"]
    assert speed["worst"]["group"] == "short" and speed["worst"]["best_fixed"] == "32 / 7"
    assert speed["worst"]["lead"] == pytest.approx(950 / 990 - 1)
    assert speed["mix"]["lead"] == pytest.approx(1900 / 1790 - 1)
    assert (speed["within"], speed["faster_on_the_mix"]) == (False, True)
    assert found["decoding alone"]["worst"]["lead"] == pytest.approx(940 / 980 - 1)
    line = verdict_lines(found)[0]
    assert "-4.0% (short, T = 0, against 32 / 7)" in line
    assert f"more than {ALLOWED:.0%} slower: no; faster on the mix: yes" in line
    speed = judged({"long": 955.0, "short": 960.0})["with prefill"]
    assert (speed["within"], speed["faster_on_the_mix"]) == (True, False)


def test_methods_take_turns_and_repeats_come_back_to_their_prompt():
    calls: list[tuple[str, str, float]] = []

    def method(name: str, cycles: int = 1, sampled_only: bool = False) -> Method:
        def run(inputs, params):
            calls.append((name, inputs, params.temperature))
            return run_of(4, 100.0 + len(calls))

        return Method(name, run, cycles, sampled_only)

    groups = (("a", "long"), ("b", "short"), ("c", "long"))
    prompts = [BenchPrompt(name, name, group) for name, group in groups]
    settings = [SamplingParams(temperature=t) for t in (0.0, 1.0)]
    methods = [method("x"), method("y", cycles=8), method("z", sampled_only=True)]
    series = measure(methods, prompts, settings, 2, Console())
    warm = [call for call in calls[: 1 + 3 + 1 + 3 + 1]]  # three cycles per output
    assert warm == [
        ("x", "a", 0.0),
        *(("y", p, 0.0) for p in "abc"),
        ("x", "a", 1.0),
        *(("y", p, 1.0) for p in "abc"),
        ("z", "a", 1.0),
    ]
    rest = calls[len(warm) :]
    assert len(rest) == 2 * 3 * (2 + 3)
    assert [c[0] for c in rest if c[2] == 1.0][:9] == list("xyzyzxzxy")
    shapes = {s.key: (len(s.runs), {len(prompt) for prompt in s.runs}) for s in series}
    assert shapes["y", 1.0, "long"] == (2, {2}) and shapes["y", 1.0, "short"] == (1, {2})
    assert ("z", 0.0, "long") not in shapes and ("z", 1.0, "long") in shapes
    times = [len(warm) + 1 + i for i, call in enumerate(rest) if call == ("y", "c", 1.0)]
    (found,) = (s for s in series if s.key == ("y", 1.0, "long"))
    assert [run.total_ms - 100 for run in found.runs[1]] == times
    assert [len(s.runs) for s in pool(series)] == [3] * 5


def test_the_prompts_are_mixed():
    chosen = mixed(held_out_prompts(), 12, 2)
    assert [item.kind for item in chosen] == ["long", "short", "short"] * 12
    short = [item for item in chosen if item.kind == "short"]
    assert len({item.id for item in chosen}) == 36
    assert len({item.image for item in short}) == 24
    assert len({item.topic for item in short}) == 7


@pytest.mark.parametrize(
    ("width", "height", "rows"),
    [
        # One tile of the image in a grid of two: 24 x 24, a row for each line, and the base.
        (336, 336, 24 * 24 + 24 + 576),
        (672, 672, 48 * 48 + 48 + 576),
        # 72 x 24 patches; 300 pixels are 21.6 of them, so one line goes above and one below.
        (1000, 300, 72 * 22 + 22 + 576),
        (300, 1000, 22 * 72 + 72 + 576),
        (640, 480, 48 * 36 + 36 + 576),
    ],
)
def test_rows_of_llava_next(width, height, rows):
    assert llava_next(width, height) == rows


def test_rows_of_the_others():
    assert llava(336, 336) == llava(1000, 300) == 576
    assert qwen(336, 336) == 12 * 12
    assert qwen(640, 480) == 23 * 17
    assert qwen(10, 10) == 4  # at least 4 cells
    assert qwen(8000, 8000) == 128 * 128  # at most 16384
    for rows in (llava, llava_next, qwen):
        with pytest.raises(HivisError, match="image: wanted some pixels, got 0x5"):
            rows(0, 5)


def test_what_drafters_read_of_them():
    entries = {(e["model"], e["image"]): e for e in prefill_rows(50)}
    assert len(entries) == len(prefill.MODELS) * len(prefill.IMAGES)
    found = entries["LLaVA-NeXT", "672 x 672"]
    assert found["target"] == 50 + 2928
    assert found["drafters"] == {"HiViS": 50, "ViSpec": 51, "EAGLE-2, draft VLM": 2978}
    with pytest.raises(HivisError, match="question: wanted at least one text row, got 0"):
        prefill_rows(0)


def test_lists_of_numbers_are_written_on_one_line(tmp_path):
    document = {"a": [1, 2.5, None], "b": [{"c": []}, "x [\n1, 2]"], "d": [[1], [2, 3]]}
    write_json(tmp_path / "out.json", document)
    text = (tmp_path / "out.json").read_text()
    assert json.loads(text) == document
    assert '"a": [ 1, 2.5, null ]' in text


@pytest.mark.parametrize(
    ("groups", "temperatures", "methods"),
    [(["all"], [0.0], [PLAIN]), (["a", "b", "c"], [0.0, 0.5, 1.0, 2.0], [PLAIN, HIVIS])],
)
def test_any_comparison_can_be_drawn(tmp_path, groups, temperatures, methods):
    series = [
        Series(method, temperature, [[run_of(9, 90.0)]], group)
        for group in groups
        for temperature in temperatures
        for method in methods
    ]
    run = {
        "device": "a machine",
        "commit": "abc",
        "settings": {"dtype": "float32"},
        "groups": groups,
        "compared": methods,
        "rows": make_rows(series, {}),
    }
    compare_plot.draw(run, tmp_path / "out.svg")
    drawn = (tmp_path / "out.svg").read_text()
    assert drawn.startswith("<?xml") and len(drawn) > 10_000
