"""bench/throughput.py and bench/overhead.py: what they count, and that they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import overhead, throughput
from bench.headline.methods import HIVIS, PLAIN
from hivis.bundled import paths
from hivis.engine.results import Generation, Statistics
from hivis.errors import HivisError
from hivis.policies.fixed import FixedPolicy

QUICK = ["--count", "1", "--repeat", "1", "--max-new-tokens", "8", "--dtype", "float32"]


def output(tokens: tuple[int, ...], accepted: tuple[int, ...]) -> Generation:
    return Generation(tokens, Statistics(len(accepted), accepted, 9, 3, 1.0, 2.0, {}))


def method(name: str, batch: int, times: list[float], tokens: int) -> throughput.BatchMethod:
    made = {0: output(tuple(range(tokens)), (2, 0)), 1: output((7,), ())}
    return throughput.BatchMethod(name, batch, None, FixedPolicy(), times, made)


def test_rows_compare_like_with_like() -> None:
    rows = throughput.make_rows(
        [
            method(PLAIN, 1, [3.0, 2.0, 9.0], 5),
            method(HIVIS, 1, [1.0], 5),
            method(PLAIN, 4, [1.5], 5),
            method(HIVIS, 4, [0.5], 4),
        ]
    )
    speeds = [row["tokens_per_s"] for row in rows]
    assert speeds == [2.0, 6.0, 4.0, 10.0]  # 6 tokens, the last 5, over medians
    assert [row["over_one"] for row in rows] == [1.0, 1.0, 2.0, 10 / 6]
    assert [row["over_plain"] for row in rows] == [1.0, 3.0, 1.0, 2.5]
    assert [row["same_output"] for row in rows] == [2, 2, 2, 1]
    assert rows[1]["accepted_length"] == 1.0  # two tokens in two cycles


def test_a_run(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "throughput.json"
    throughput.main([*QUICK, "--batch", "2", "1", "--json", str(path)])
    document = json.loads(path.read_text())
    found = [(row["batch"], row["method"]) for row in document["rows"]]
    assert found == [(1, PLAIN), (1, HIVIS), (2, PLAIN), (2, HIVIS)]
    for row in document["rows"]:
        assert row["same_output"] == row["prompts"] == 2  # float32
        assert 0 < row["tokens"] <= 16
        assert row["tokens_per_s"] > 0
    assert document["commit"] and document["settings"]["dtype"] == "float32"
    assert "tokens/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "drafted"),
    [(["--drafter", str(paths.EAGLE)], ["hivis + EAGLE-2"]), (["--model", str(paths.TARGET)], [])],
)
def test_a_row_has_the_name_of_its_drafter(
    tmp_path: Path, more: list[str], drafted: list[str]
) -> None:
    path = tmp_path / "throughput.json"
    throughput.main([*QUICK, *more, "--batch", "1", "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert [row["method"] for row in rows] == [PLAIN, *drafted]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--batch", "0"], "--batch: wanted at least 1, got 0"),
        (["--count", "0"], "--count: wanted at least 1, got 0"),
        (["--repeat", "-1"], "--repeat: wanted at least 1, got -1"),
        (["--max-new-tokens", "99999"], "context: wanted at most"),
        (["--json", "/nowhere/x.json"], "--json"),
    ],
)
def test_bad_options_are_named(more: list[str], complaint: str) -> None:
    with pytest.raises(HivisError, match=complaint):
        throughput.main([*QUICK, *more])


def test_the_rest_of_a_cycle_is_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "overhead.json"
    overhead.main(["--prompts", "1", "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert [(row["temperature"], row["trees"]) for row in rows] == [
        (0.0, "fixed"),
        (0.0, "cost"),
        (1.0, "fixed"),
        (1.0, "cost"),
    ]
    for row in rows:
        assert row["cycles"] > 3
        assert min(row[part] for part in overhead.PARTS) > 0
        parts = sum(row[part] for part in ("grow", "accept", "compact", "read"))
        assert row["loop"] > 0.8 * parts  # medians of each, so not quite their sum
