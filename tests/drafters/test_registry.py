"""The registry: every record is true, and a method from outside works like one of our own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import hivis
from bench import latency, launches
from bench.synthetic.drafters import drafter_names
from hivis.bundled import paths
from hivis.cli.generate import PROMPT
from hivis.cli.main import main
from hivis.drafters.checkpoint import random_tensors
from hivis.drafters.inspect import inspect
from hivis.drafters.one_layer import OneLayerDrafter
from hivis.drafters.registry import (
    METHODS,
    call,
    method_of,
    methods,
    recognize,
    register_drafter,
    title_of,
)
from hivis.errors import HivisError
from hivis.models.drafter_sizes import read_sizes
from hivis.policies.fixed import FixedPolicy
from hivis.training.data.samples import Columns
from hivis.training.options import TrainOptions
from hivis.training.train import make_learner
from recipes.tiny.conversations import write_conversations
from recipes.tiny.draft import write_draft
from tests.helpers import bigram

ROOT = Path(__file__).resolve().parents[2]
OURS = tuple(method.name for method in methods())
BUNDLED = tuple(method.name for method in methods() if method.bundled is not None)
TRAINED = tuple(method.name for method in methods() if method.learner is not None)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """The toy method, registered for one test."""
    monkeypatch.setattr(METHODS, "_records", dict(METHODS._records))
    register_drafter(bigram.METHOD)
    return bigram.METHOD.name


def test_our_methods_are_there() -> None:
    assert {"hivis", "vispec", "eagle", "draft-vlm"} <= {*BUNDLED} & {*TRAINED}


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_drafter_is_recognized_by_its_method_alone(name: str) -> None:
    method = method_of(name)
    assert method.bundled is not None
    info = inspect(paths.WEIGHTS / method.bundled)
    assert recognize(info) is method
    assert [each.name for each in methods() if each.owns(info)] == [name]


@pytest.mark.parametrize("name", BUNDLED)
def test_a_loaded_drafter_names_its_method_and_has_its_title(name: str) -> None:
    method = method_of(name)
    assert method.bundled is not None
    model = hivis.load(paths.TARGET, paths.WEIGHTS / method.bundled, dtype="float32", device="cpu")
    assert model.drafter is not None
    assert model.drafter.method == name and title_of(model.drafter) == method.title
    assert callable(getattr(model.drafter, "quantize", None)) == method.quantizable


@pytest.mark.parametrize("name", TRAINED)
def test_columns_are_those_that_the_learner_needs(name: str, tmp_path: Path) -> None:
    draft = None
    if method_of(name).needs_draft:
        draft = tmp_path / "draft"
        write_draft(draft, paths.TARGET)
    options = TrainOptions(name, str(paths.TARGET), tmp_path, tmp_path)
    learner, _ = make_learner(options, paths.TARGET, draft)
    assert Columns(**method_of(name).columns) == learner.columns


@pytest.mark.parametrize("name", OURS)
def test_a_random_drafter_binds_to_a_target_of_its_sizes(name: str) -> None:
    method = method_of(name)
    if method.random is None:
        assert method.needs_draft  # its sizes do not follow from the target's
        return
    sizes = read_sizes(paths.TARGET)
    drafter = call(method.random, sizes.layer, sizes.hiding, partial(random_tensors, seed=3))
    table = torch.zeros(sizes.layer["vocab_size"], sizes.layer["hidden_size"])
    drafter.bind(table, table)
    assert drafter.method == name


def test_what_is_unknown_or_there_already_is_refused(toy: str) -> None:
    with pytest.raises(HivisError, match="method: wanted one of hivis, .*bigram, got 'eagl'"):
        method_of("eagl")
    another = bigram.DrafterMethod(toy, "Another", "another", bigram.load_bigram)
    with pytest.raises(HivisError, match="wanted a name of its own, got bigram again"):
        register_drafter(another)
    register_drafter(bigram.METHOD)  # the same once more is nothing new


def test_a_method_from_outside_trains_loads_and_generates(toy: str, tmp_path: Path) -> None:
    write_conversations(tmp_path, 8, seed=3)
    out = tmp_path / "drafter"
    given = ["--target", str(paths.TARGET), "--data", str(tmp_path / "conversations.jsonl")]
    given += ["--max-new-tokens", "12", "--answer-batch", "4", "--dtype", "float32"]
    given += ["--updates", "150", "--batch", "4", "--held-out", "1", "--out", str(out)]
    main(["train", "--method", toy, *given])
    image = paths.EVAL / "scene00.png"
    asked = {"prompt": PROMPT, "images": image, "max_new_tokens": 40}
    plain = hivis.load(paths.TARGET, dtype="float32", device="cpu")
    model = hivis.load(paths.TARGET, out, dtype="float32", device="cpu", policy="fixed")
    assert model.drafter is not None and title_of(model.drafter) == "Bigrams"
    accepted = 0
    for temperature in (0.0, 1.0):
        wanted = plain.generate(**asked, temperature=temperature, seed=5)
        found = model.generate(**asked, temperature=temperature, seed=5)
        assert found.tokens == wanted.tokens
        accepted += sum(found.statistics.accepted_lengths)
    assert accepted > 0
    with pytest.raises(HivisError, match="--noise: wanted none with bigram, got 0.5"):
        main(["train", "--method", toy, *given, "--noise", "0.5"])
    with pytest.raises(HivisError, match="wanted a HiViS.*for quantized weights.*got Bigrams at"):
        hivis.load(paths.TARGET, out, drafter_weights="int8", device="cpu")


def test_errors_name_the_methods_that_can_be_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_records", dict(METHODS._records))
    register_drafter(replace(bigram.METHOD, quantizable=True))
    wanted = "drafter: wanted a HiViS, ViSpec, EAGLE-2 or Bigrams one"
    for drafter in (paths.DRAFT_VLM, object.__new__(bigram.BigramDrafter)):
        with pytest.raises(HivisError, match=wanted):
            hivis.load(paths.TARGET, drafter, drafter_weights="int8", device="cpu")


def test_a_method_from_outside_has_a_row_in_the_headline_benchmark(
    toy: str, tmp_path: Path
) -> None:
    sizes = read_sizes(paths.TARGET)
    weights = partial(random_tensors, seed=1)
    bigram.random_bigram(sizes.layer, sizes.hiding, weights).save(tmp_path / "drafter")
    given = ["--quick", "--no-hf", "--threads", "1", "--dtype", "float32", "--count", "1"]
    given += ["--bigram", str(tmp_path / "drafter"), "--json", str(tmp_path / "out.json")]
    latency.main(given)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    ours = [row for row in rows if row["method"] == "hivis + Bigrams"]
    assert [row["temperature"] for row in ours] == [0.0, 1.0]
    assert all(row["identical"] and row["identical_prompts"] == 1 for row in ours)
    with pytest.raises(HivisError, match="--bigram .*: wanted a Bigrams drafter, got a HiViS one"):
        latency.main([*given, "--bigram", str(paths.HIVIS)])


def test_a_random_drafter_from_outside_is_counted(toy: str) -> None:
    target = launches.target_of(layers=2)
    *_, drafter = launches.drafters_for(target)
    row = launches.count(target, drafter, FixedPolicy(nodes=4, depth=3, top_k=1), temperature=1.0)
    assert row["loop"] == "Bigrams" and row["draft"] > 0 and row["commit"] == 0


def test_the_synthetic_benchmark_offers_one_layer_drafters_alone(toy: str) -> None:
    """It quantizes them, and counts the bytes of their weights by their configs."""
    sizes = read_sizes(paths.TARGET)
    weights = partial(random_tensors, seed=1)
    made = {
        method.name: call(method.random, sizes.layer, sizes.hiding, weights)
        for method in methods()
        if method.random is not None
    }
    assert toy in made
    one_layer = [name for name, each in made.items() if isinstance(each, OneLayerDrafter)]
    assert drafter_names() == one_layer


def test_an_entry_point_is_found(tmp_path: Path) -> None:
    """As an installed package declares it, in a process of its own."""
    info = tmp_path / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[hivis.drafters]\nbigram = tests.helpers.bigram:METHOD\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    code += "from hivis.drafters.registry import methods\n"
    code += "print(*(method.name for method in methods()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split()[-1] == "bigram", done.stderr
