"""bench/latency.py --compare: the tables show the JSON's figures, and these are the runs'."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from bench import latency
from bench.common.generation import HUGGING_FACE
from bench.headline.ablation import add_ablations, fixed_name, verdict_lines
from bench.headline.loading import LoadedMethods
from bench.headline.markdown import compare_tables
from bench.headline.methods import HIVIS, LOOKUP, PLAIN, row_name
from bench.headline.options import parse
from hivis.bundled import paths
from hivis.drafters import checkpoint
from hivis.drafters.config import HiViSConfig, ViSpecConfig
from hivis.drafters.registry import method_of
from hivis.errors import HivisError
from hivis.models.families.llava import Llava
from hivis.models.target import HuggingFaceTarget
from tests.helpers import published_checkpoints
from tests.helpers.small_llava import random_llava

QUICK = ("--compare", "--quick", "--max-new-tokens", "6", "--dtype", "float32", "--threads", "1")
EAGLE, VISPEC, SPEC_LLAVA = (row_name(method_of(n).title) for n in ("eagle", "vispec", "draft-vlm"))
BASELINES = (HUGGING_FACE, LOOKUP)
COMPARED = [*BASELINES, PLAIN, EAGLE, VISPEC, SPEC_LLAVA, HIVIS]
VISUAL_ROWS = 100
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 2688,
}


def save_draft_vlm(folder: Path) -> None:
    config = LlavaConfig.from_pretrained(paths.TARGET)
    for name, value in (
        ("num_hidden_layers", 1),
        ("hidden_size", 64),
        ("intermediate_size", 64),
        ("num_attention_heads", 1),
        ("num_key_value_heads", 1),
    ):
        setattr(config.text_config, name, value)
    torch.manual_seed(4)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(paths.TARGET / name, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Drafters with random weights; of those to ablate with, no-residual is missing."""
    folder = tmp_path_factory.mktemp("compare")
    for name, config in (
        ("vispec", ViSpecConfig(**SIZES)),
        ("parts/no-hiding", HiViSConfig(**SIZES, rows="all")),
        ("parts/stage-1", HiViSConfig(**SIZES)),
    ):
        checkpoint.save(folder / name, config, checkpoint.random_tensors(config, 1))
    save_draft_vlm(folder / "vlm")
    return folder


@pytest.fixture(scope="module")
def printed(folder):
    out = io.StringIO()
    with redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        latency.main(
            [
                *QUICK,
                "--ablate",
                "--vispec",
                str(folder / "vispec"),
                "--draft-vlm",
                str(folder / "vlm"),
                "--ablations",
                str(folder / "parts"),
                "--json",
                str(folder / "out.json"),
                "--plot",
                str(folder / "out.png"),
            ]
        )
    return out.getvalue()


@pytest.fixture(scope="module")
def document(folder, printed):
    return json.loads((folder / "out.json").read_text())


def by_key(rows):
    return {(row["method"], row["temperature"], row["group"]): row for row in rows}


def test_what_is_in_it(document, folder):
    assert {"device", "versions", "commit", "settings"} <= set(document)
    assert document["groups"] == ["long", "short"]
    assert document["compared"] == COMPARED
    rows = by_key(document["rows"])
    assert len(rows) == len(document["rows"])
    for method in COMPARED:
        for temperature in (0.0, 1.0):
            assert {(method, temperature, group) for group in ("long", "short")} <= set(rows)
    assert (folder / "out.png").read_bytes()[:4] == b"\x89PNG"
    assert document["settings"]["policy"] == "cost"


def test_a_missing_ablation_is_noted_and_the_noise_is_only_at_t_1(document, printed):
    (note,) = document["notes"]
    assert "without residual" in note and "no-residual" in note
    assert "without residual is left out" in " ".join(printed.split())
    assert set(document["parts"]) == {
        "HiViS",
        "without hiding",
        "without stage 2",
        "without shared noise",
    }
    unaware = {r["temperature"] for r in document["rows"] if "noise" in r["method"]}
    assert unaware == {1.0}
    assert list(document["policies"]) == [
        "8 / 7",
        "16 / 7",
        "32 / 7",
        "60 / 7",
        "confidence",
        "cost",
    ]
    assert document["policies"]["cost"] == HIVIS


def test_speeds_are_those_of_the_runs(document):
    tokens, ms = {}, {}
    for run in document["runs"]:
        key = run["method"], run["temperature"], run["group"]
        assert len(run["tokens"]) == len(run["total_ms"]) == 1
        tokens[key] = tokens.get(key, 0) + run["tokens"][0]
        ms[key] = ms.get(key, 0.0) + run["total_ms"][0]
    for key, row in by_key(document["rows"]).items():
        speed = 1e3 * tokens[key] / ms[key]
        assert row["tokens_per_s"] == pytest.approx(speed, rel=1e-4)
        for baseline, name in ((PLAIN, "speedup_vs_plain"), (HUGGING_FACE, "speedup_vs_hf")):
            base = (baseline, *key[1:])
            assert row[name] == pytest.approx(speed * ms[base] / 1e3 / tokens[base], rel=1e-4)
    for key, row in by_key(document["mix"]).items():
        both = [(key[0], key[1], group) for group in document["groups"]]
        speed = 1e3 * sum(tokens[k] for k in both) / sum(ms[k] for k in both)
        assert row["tokens_per_s"] == pytest.approx(speed, rel=1e-4)


def test_drafting_is_that_of_the_runs(document):
    rows = by_key(document["rows"])
    drafted = [run for run in document["runs"] if run.get("drafter_rows")]
    for run in drafted:
        row = rows[run["method"], run["temperature"], run["group"]]
        assert row["accepted_length"] == pytest.approx(run["accepted"][0] / run["cycles"][0])
        assert row["tokens_per_cycle"] == pytest.approx(row["accepted_length"] + 1)
        assert row["drafter_prefill_share"] == run["drafter_rows"] / run["prompt_rows"]
        assert sum(run["accepted"]) + sum(run["cycles"]) == run["tokens"][0] - 1
        text = run["prompt_rows"] - VISUAL_ROWS
        everything = {EAGLE, SPEC_LLAVA, "HiViS without hiding"}
        wanted = run["prompt_rows"] if run["method"] in everything else text
        assert run["drafter_rows"] == wanted + (run["method"] == VISPEC)
    assert {run["method"] for run in drafted} >= {EAGLE, VISPEC, SPEC_LLAVA, HIVIS}
    assert rows[HIVIS, 0.0, "long"]["accepted_length"] > 1


def test_every_output_is_plain_decodings(document):
    for row in document["rows"]:
        if row["method"] not in BASELINES:
            assert row["identical"] is True, row["method"]
        elif row["temperature"] > 0:
            assert row["identical"] is None


def test_the_tables_show_the_json(document, printed):
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(line.strip().startswith("(") and line.strip().endswith("%)") for line in lines)
    wanted = []
    for rows in (document["rows"], document["mix"]):
        for row in rows:
            if row["method"] in COMPARED:
                wanted.append(
                    (row["method"], f"{row['temperature']:g}", f"{row['tokens_per_s']:.1f}")
                )
                if row["drafter_rows"]:
                    share = f"({row['drafter_prefill_share']:.0%})"
                    wanted.append((row["method"], f"{row['drafter_rows']:.0f}", share))
    for labels in (document["parts"], document["policies"]):
        for label, method in labels.items():
            for row in document["rows"]:
                if row["method"] == method:
                    wanted.append(
                        (label, f"{row['accepted_length']:.2f}", f"{row['tokens_per_s']:.1f}")
                    )
    for method, *figures in wanted:
        assert any(
            line.strip().startswith(method) and set(figures) <= set(line.split()) for line in lines
        ), (method, figures)
    flat = " ".join(printed.split())
    for line in verdict_lines(document["verdict"]):
        assert line in flat


def test_markdown_shows_the_json(document):
    text = compare_tables(document)
    for row in document["rows"]:
        if row["method"] in COMPARED:
            start = f"| {row['group']} | {row['method']} | {row['temperature']:g} | "
            assert f"{start}{row['tokens_per_s']:.0f} | " in text
    assert "| LLaVA-NeXT | 672 x 672 | 2992 | 64 | 65 | 2992 |" in text
    computed = document["computed_prefill"]
    assert "not measured" in computed["about"] and computed["text_rows"] == 64


def test_the_verdict_is_that_of_the_runs(document):
    speeds = {}
    for label, method in document["policies"].items():
        runs = [run for run in document["runs"] if run["method"] == method]
        ms = sum(run["total_ms"][0] for run in runs)
        speeds[label] = 1e3 * sum(run["tokens"][0] for run in runs) / ms
    mix = document["verdict"]["with prefill"]["mix"]
    best = max(speeds[fixed_name(nodes)] for nodes in (8, 16, 32, 60))
    assert mix["lead"] == pytest.approx(speeds["cost"] / best - 1, abs=1e-4)
    assert speeds[mix["best_fixed"]] == best


def test_a_published_drafter_is_ablated(tmp_path):
    """Only the target says how images are hidden from it, so it has to be asked in every row."""
    for name in ("drafter", "parts/stage-1"):
        (tmp_path / name).mkdir(parents=True)
        published_checkpoints.write(tmp_path / name, "HiViS-llava")
    drafter, parts = str(tmp_path / "drafter"), str(tmp_path / "parts")
    options = parse(None, [*QUICK, "--ablate", "--drafter", drafter, "--ablations", parts])
    loaded = LoadedMethods(HuggingFaceTarget(random_llava(), Llava()), None)
    labels, policies = add_ablations(options, loaded)
    assert {"without stage 2", "without shared noise"} <= set(labels)
    added = {*labels.values(), *policies.values()} - {HIVIS}
    assert {method.name for method in loaded.methods} == added


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--ablate",), "--compare"),
        (("--compare", "--ablations", "."), "--ablate"),
        (("--vispec", "."), "--compare"),
        (("--draft-vlm", "."), "--draft-vlm: wanted --compare"),
        (("--compare", "--vispec", "./nowhere"), "nowhere"),
        (("--compare", "--vispec", str(paths.HIVIS)), "ViSpec"),
        (("--compare", "--draft-vlm", "./nowhere"), "nowhere"),
        (("--compare", "--repeat", "0"), "--repeat"),
        (("--compare", "--question", "0"), "--question"),
        (("--compare", "--ablate", "--ablations", "wrong"), "no-residual"),
        (("--compare", "--ablate", "--ablations", "broken"), "config.json"),
        (("--compare", "--ablate", "--ablations", "small"), "stage-1: wanted a HiViS drafter"),
    ],
)
def test_bad_input_is_named_in_one_line(folder, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "parts" / "stage-1", tmp_path / "wrong" / "no-residual")
    (tmp_path / "broken" / "stage-1").mkdir(parents=True)
    shutil.copytree(folder / "vlm", tmp_path / "small" / "stage-1")
    with pytest.raises(HivisError) as error:
        latency.main(["--quick", "--no-hf", "--threads", "1", *arguments])
    assert says in str(error.value) and "\n" not in str(error.value)
