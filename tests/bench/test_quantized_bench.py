"""``bench/quantized``: a trial run, and the bytes of a level."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.common.level_bytes import LevelSizes, bytes_of_level
from bench.headline.methods import PLAIN
from bench.quantized import __main__ as quantized
from bench.quantized.__main__ import DRAFTERS, LEVELS, name_of
from bench.quantized.level import ROWS, SHAPES, random_matrices
from hivis.bundled import paths
from hivis.drafters.load import load_drafter
from hivis.errors import HivisError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("weights", "draft_vocab"), [*LEVELS, ("int4-128", None), ("int4-32", 64)])
def test_bytes_of_a_level_are_those_of_its_matrices(weights: str, draft_vocab: int | None) -> None:
    sizes = SHAPES["tiny"]
    made = random_matrices(sizes, weights, draft_vocab, CPU, torch.bfloat16)
    assert sum(own.nbytes for own, _ in made) == bytes_of_level(sizes, weights, draft_vocab)


@pytest.mark.parametrize("weights", ["full", "int8", "int4"])
def test_bytes_of_the_bundled_drafter(weights: str) -> None:
    drafter = load_drafter(paths.HIVIS, weights=weights)
    c = drafter.config
    table = torch.zeros(c.vocab_size, c.hidden_size, dtype=torch.bfloat16)
    drafter.bind(table, table)
    width = c.num_attention_heads * c.head_dim
    sizes = LevelSizes(
        c.hidden_size, c.intermediate_size, width, c.num_key_value_heads * c.head_dim, c.vocab_size
    )
    assert drafter.level_bytes == bytes_of_level(sizes, weights, None)


def test_a_7b_level_is_what_the_design_says() -> None:
    """236 million weights and a head of 131 million."""
    matrices = SHAPES["llava-1.5-7b"].matrices(None)
    count = {name: outputs * inputs for name, (outputs, inputs) in matrices.items()}
    assert count.pop("head") == pytest.approx(131e6, rel=0.005)
    assert sum(count.values()) == pytest.approx(236e6, rel=0.005)


def test_a_trial_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "quantized.json"
    quantized.main(
        [
            "--count",
            "1",
            "--repeat",
            "1",
            "--max-new-tokens",
            "8",
            "--dtype",
            "float32",
            "--shape",
            "tiny",
            "--json",
            str(out),
        ]
    )
    found = json.loads(out.read_text())
    names = [PLAIN, *(name_of(*drafter, "float32") for drafter in DRAFTERS)]
    for temperature in (0.0, 1.0):
        rows = [row for row in found["rows"] if row["temperature"] == temperature]
        assert [row["method"] for row in rows] == names
        assert all(row["identical"] for row in rows), "in float32 no drafter changes the output"
        sizes = {row["method"]: row["level_bytes"] for row in rows}
        assert sizes["int4"] < sizes["int8"] < sizes["float32"] and sizes[PLAIN] is None
    assert [entry["drafter"] for entry in found["level"]] == [
        name_of(*entry, "float32") for entry in LEVELS
    ]
    for entry in found["level"]:
        assert set(entry["ms"]) == set(map(str, ROWS)) and min(entry["ms"].values()) > 0
    shown = capsys.readouterr().out
    assert "an estimate" in shown and max(map(len, shown.splitlines())) <= 80
    assert {"device", "versions", "commit", "settings"} <= found.keys()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--count", "0"), "--count: wanted at least 1"),
        (("--max-new-tokens", "0"), "--max-new-tokens: wanted at least 1"),
        (("--shape", "gpt"), "--shape: wanted one of"),
        (("--json", "no/such/folder/x.json"), "--json"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(HivisError, match=says) as error:
        quantized.main(list(arguments))
    assert "\n" not in str(error.value)
