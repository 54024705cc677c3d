"""``python -m bench.synthetic``: configurations, figures, and the whole program."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from bench import latency
from bench.synthetic import __main__ as synthetic
from bench.synthetic import plot
from bench.synthetic.accepted_lengths import AcceptedLengths, mean_of
from bench.synthetic.configs import SHAPES, shape_of
from bench.synthetic.cycles import DRAFTED, EAGER, GRAPH, PLAIN, CycleTimes
from bench.synthetic.drafters import drafter_names, random_draft_vocab, random_drafter
from bench.synthetic.figures import GOALS, goals, speedups, streamed_bytes
from bench.synthetic.generations import STATIC
from bench.synthetic.options import DEPTH, NODES, PROMPT_ROWS, TOP_K
from bench.synthetic.random_models import image_rows, random_model, random_prompt, random_target
from bench.synthetic.simulated_acceptance import LABEL
from bench.synthetic.tables import print_prompt, print_run
from hivis.core.tree_shape import TreeShape
from hivis.errors import HivisError
from hivis.models.target import HuggingFaceTarget
from tests.helpers.captured_graphs import CpuCapturer
from tests.helpers.synthetic_pair import CPU, SHAPE, pair_of

ROOT = Path(__file__).resolve().parents[2]


# --- shapes


def test_sizes_are_those_that_were_published():
    """Parameters of the language models, from the configurations without making any weight."""
    billions = {}
    for name in SHAPES:
        text = shape_of(name).config.get_text_config()
        head_dim = text.hidden_size // text.num_attention_heads
        kv = text.num_key_value_heads * head_dim
        layer = text.hidden_size * (2 * text.hidden_size + 2 * kv + 3 * text.intermediate_size)
        tables = 2 * text.vocab_size * text.hidden_size
        billions[name] = round((text.num_hidden_layers * layer + tables) / 1e9, 2)
    assert billions == {
        "llava-1.5-7b": 6.74,
        "llava-1.5-13b": 13.02,
        "llava-next-7b": 6.74,
        "qwen2.5-vl-7b": 7.62,
    }


@pytest.mark.parametrize("name", SHAPES)
def test_a_scaled_model_says_so_and_keeps_its_family_and_its_groups(name):
    real, tiny = shape_of(name), shape_of(name, "tiny", layers=3)
    assert real.scaled is None
    assert tiny.scaled is not None and "tiny" in tiny.scaled and "3 layers" in tiny.scaled
    assert tiny.config.model_type == real.config.model_type
    groups = [
        text.num_attention_heads // text.num_key_value_heads
        for text in (shape.config.get_text_config() for shape in (real, tiny))
    ]
    assert groups[0] == groups[1]
    assert tiny.config.get_text_config().num_hidden_layers == 3


@pytest.mark.parametrize("name", SHAPES)
def test_prompts_have_the_rows_that_were_asked_for(name):
    shape = shape_of(name, "tiny")
    target = random_target(shape, torch.float32, CPU)
    largest = random_prompt(shape, target, 200)
    assert largest.length == 200
    rows = image_rows(target, largest)
    assert rows == sum(target.family.image_rows(target.model, largest.tokens, largest.features))
    # Without room for the image: a smaller one, or none.
    smaller = random_prompt(shape, target, rows + 11)
    assert smaller.length == rows + 11 and image_rows(target, smaller) < rows
    assert random_prompt(shape, target, rows + 12).features.keys() == largest.features.keys()


def test_real_sizes_are_made_where_they_are_for():
    """The 13 B model on a device without memory: nothing is on the host, or in another dtype."""
    shape, meta = shape_of("llava-1.5-13b"), torch.device("meta")
    model = random_model(shape, torch.bfloat16, meta)
    drafter = random_drafter(shape, "vispec", torch.bfloat16, meta)
    weights = [*model.parameters(), *drafter.tensors.values()]
    assert sum(weight.numel() for weight in weights) > 13e9
    assert {weight.device for weight in weights} == {meta}
    assert {weight.dtype for weight in weights} == {torch.bfloat16}


# --- figures


def cycles_of(step: float, cycle: float) -> dict[tuple[str, str], CycleTimes]:
    return {(PLAIN, EAGER): CycleTimes(step, {}, 0.0), (DRAFTED, EAGER): CycleTimes(cycle, {}, 3.0)}


def test_speedups_follow_from_step_and_cycle():
    (row,) = speedups(cycles_of(4.0, 5.0), 10.0, [3.0])
    assert row == {"accepted_length": 3.0, "mode": EAGER, "over_plain": 3.2, "over_hf": 8.0}
    (row,) = speedups(cycles_of(4.0, 5.0), None, [0.0])
    assert row["over_plain"] == 0.8 and row["over_hf"] is None


def test_goals_are_judged_by_what_was_measured():
    parts = {EAGER: {"verify 60": 4.2, "draft": 1.3, "growth": 0.1, "commit": 0.2, "accept": 0.1}}
    found = goals(cycles_of(4.0, 5.9), parts, {"draft": 1.2}, 24.0, 60, False)
    got = {goal["figure"]: goal["got"] for goal in found}
    assert got == pytest.approx(
        {
            "verify over plain step": 1.05,
            "draft over its weights": 1.3 / 1.2,
            # 5.9 less the passes: 4.2, 1.3 without the growth, 0.2
            "neither model's pass, of verify": 0.3 / 4.2,
            "over plain": 4 * 4.0 / 5.9,
            "over Hugging Face": 4 * 24.0 / 5.9,
        }
    )
    assert [goal["reached"] for goal in found] == [True, True, False, True, True]
    quantized = goals(cycles_of(4.0, 5.9), {EAGER: {}}, {"draft": 1.2}, None, 60, True)
    assert [goal["reached"] for goal in quantized] == [False] * 5
    assert quantized[3]["figure"] == "over plain, quantized" and quantized[3]["wanted"] == 3.2


@pytest.mark.parametrize("quantized", [("full", None), ("int8", None), ("int4", 96)])
@pytest.mark.parametrize("kind", drafter_names())
@pytest.mark.parametrize("name", SHAPES)
def test_streamed_bytes_are_those_of_the_weights(name, kind, quantized):
    pair, shape = pair_of(name, kind), shape_of(name, "tiny")
    config = pair.drafter.config
    pair.target.prefill(random_prompt(shape, pair.target, 40), "none", 50)
    found = streamed_bytes(shape.config, config, SHAPE, 40, 3.0, torch.float32, *quantized)
    model = pair.target.model
    read = [
        *model.model.language_model.layers.parameters(),
        *model.lm_head.parameters(),
        *model.model.language_model.norm.parameters(),
    ]
    row = pair.target.cache.kv[..., 0, :].numel()
    assert found["verify"] == 4 * (sum(w.numel() for w in read) + 40 * row)
    assert found["compact"] == 4 * 2 * 4 * row
    assert found["accept"] == 4 * SHAPE.nodes * len(pair.target.head)
    pair.drafter.quantize(quantized[0], random_draft_vocab(config.vocab_size, quantized[1]))
    pair.drafter.bind(pair.target.embedding, pair.target.head)
    head = pair.drafter._m["head"].nbytes
    assert found["commit"] == pair.drafter.level_bytes - head
    assert found["draft"] == 5 * pair.drafter.level_bytes + head


def test_the_floors_in_the_documents_are_those_of_the_configurations():
    """H100: 3.35 TB/s. The gains are at accepted length 3, with drafters of four kinds."""
    page = (ROOT / "docs" / "performance.md").read_text()
    shape_of_tree = TreeShape(NODES, DEPTH, TOP_K)
    kinds = (("full", None), ("int8", None), ("int4", None), ("int8", 16384))
    for name in SHAPES:
        shape = shape_of(name)
        drafter = random_drafter(shape, "hivis", torch.bfloat16, torch.device("meta"))
        for rows in PROMPT_ROWS:
            times, gains = {}, []
            for kind in kinds:
                about = (shape.config, drafter.config, shape_of_tree, rows, 3.0)
                streamed = streamed_bytes(*about, torch.bfloat16, *kind)
                ms = {phase: size / 3.35e9 for phase, size in streamed.items()}
                gains.append(f"{4 * ms['verify'] / sum(ms.values()):.2f}x")
                times[kind] = [ms["verify"], ms["draft"], ms["commit"], sum(ms.values())]
            cells = [f"{each:.2f} ms" for each in times[kinds[0]]] + gains
            line = f"| {rows:,} | {' | '.join(cells)} |"
            assert any(name in row and line in row for row in page.splitlines()), line


# --- the program

FIELDS = {
    "prompt_rows",
    "image_rows",
    "nodes",
    "outputs",
    "cycles",
    "parts_ms",
    "failed",
    "streamed_bytes",
    "floors_ms",
    "speedups",
    "checks",
    "memory_bytes",
    "goals",
}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("shape")
    synthetic.main(
        [
            "llava-next-7b",
            "--scale",
            "tiny",
            "--quick",
            "--accepted",
            "4",
            "--dtype",
            "float32",
            "--json",
            str(folder / "out.json"),
            "--plot",
            str(folder / "out.png"),
        ]
    )
    assert (folder / "out.png").read_bytes()[:4] == b"\x89PNG"
    return json.loads((folder / "out.json").read_text())


def test_the_document_says_that_acceptance_is_simulated(document):
    assert document["label"] == LABEL == "simulated acceptance"
    assert document["shape"]["scaled"] == "scaled to tiny"
    assert {"device", "versions", "commit", "settings", "published"} <= document.keys()
    assert document["accepted"]["mean"] == pytest.approx(4)
    assert document["accepted"]["drawn_mean"] == pytest.approx(4, abs=0.1)
    assert "geometric" in document["accepted"]["source"]


def test_the_document_has_every_figure(document):
    lengths = AcceptedLengths("", tuple(document["accepted"]["shares"])).draw(4096)
    assert [found["prompt_rows"] for found in document["prompts"]] == [48, 96]
    for found in document["prompts"]:
        assert set(found) == FIELDS and not found["goals"] and not found["failed"]
        assert [row["method"] for row in found["outputs"]] == ["HF generate", PLAIN, DRAFTED]
        for row in found["outputs"]:
            assert row["tokens"] == 16 and 0 < row["first_token_ms"] < row["total_ms"]
        parts = found["parts_ms"][EAGER]
        sizes = {f"verify {nodes}" for nodes in (1, 8, 16, 32, 60, 64, 128)}
        assert set(parts) == sizes | {"draft", "growth", "accept", "compact", "commit"}
        assert min(parts.values()) > 0 and min(found["floors_ms"].values()) > 0
        plain, drafted = found["cycles"]
        assert (plain["loop"], drafted["loop"]) == (PLAIN, DRAFTED)
        assert {"draft", "verify", "accept", "compact", "commit", "read"} == set(
            drafted["phases_ms"]
        )
        # a warm-up round of 5, then two that count
        assert drafted["accepted_length"] == pytest.approx(mean_of(lengths[5:15]))
        for row in found["speedups"]:
            wanted = (row["accepted_length"] + 1) * plain["ms"] / drafted["ms"]
            assert row["over_plain"] == pytest.approx(wanted)
        assert found["checks"][0]["by_outputs"] > 0


def test_compiled_passes_and_a_static_cache(tmp_path, monkeypatch, capsys):
    """What torch.compile would make is run as it is."""
    plainly = HuggingFaceTarget.compile
    monkeypatch.setattr(HuggingFaceTarget, "compile", lambda target: plainly(target, "eager"))
    path = tmp_path / "out.json"
    synthetic.main(
        [
            "llava-1.5-7b",
            "--scale",
            "tiny",
            "--quick",
            "--compile",
            "--hf-static",
            "--no-hf",
            "--nodes",
            "16",
            "--drafter-weights",
            "int8",
            "--draft-vocab",
            "90",
            "--prompt-rows",
            "40",
            "--json",
            str(path),
        ]
    )
    (found,) = json.loads(path.read_text())["prompts"]
    passes = {name for name in found["parts_ms"][EAGER] if name.startswith("verify")}
    assert passes == {"verify 1", "verify 16"}
    assert [row["method"] for row in found["outputs"]] == [STATIC, PLAIN, DRAFTED]
    assert all(row["over_hf"] is None for row in found["speedups"])


def test_both_modes_are_measured_where_there_are_graphs(tmp_path, monkeypatch):
    """As on a GPU, by a stand-in: what is captured accepts the same lengths."""
    capturer, path = CpuCapturer(), tmp_path / "out.json"
    monkeypatch.setattr(
        "hivis.engine.cycle.capturer_for", lambda device, wanted: capturer if wanted else None
    )
    monkeypatch.setattr("hivis.engine.running_batch.cycles_in_flight", lambda device: 1)
    for module in ("run", "generations"):
        monkeypatch.setattr(f"bench.synthetic.{module}.modes", lambda device: [EAGER, GRAPH])
    synthetic.main(
        [
            "qwen2.5-vl-7b",
            "--scale",
            "tiny",
            "--quick",
            "--max-new-tokens",
            "24",
            "--prompt-rows",
            "40",
            "--json",
            str(path),
        ]
    )
    assert capturer.captured and capturer.replayed > 20
    (found,) = json.loads(path.read_text())["prompts"]
    both = [(kind, mode) for mode in (EAGER, GRAPH) for kind in (PLAIN, DRAFTED)]
    assert [(row["loop"], row["mode"]) for row in found["cycles"]] == both
    plain, drafted, _, replayed = found["cycles"]
    assert drafted["accepted_length"] == replayed["accepted_length"] > plain["accepted_length"]
    assert "verify" in drafted["phases_ms"] and "cycle" in replayed["phases_ms"]
    outputs = {row["mode"]: row for row in found["outputs"] if row["method"] == DRAFTED}
    assert outputs[EAGER]["accepted_length"] == outputs[GRAPH]["accepted_length"]
    assert {row["mode"] for row in found["speedups"]} == {EAGER, GRAPH}
    assert [check["mode"] for check in found["checks"]] == [EAGER, GRAPH]


def with_graphs(document: Any) -> Any:
    """The document as it would be of a GPU."""
    made = copy.deepcopy(document)
    for found in made["prompts"]:
        found["parts_ms"][GRAPH] = dict(found["parts_ms"][EAGER])
        del found["parts_ms"][GRAPH]["commit"]
        found["failed"] = {"commit": "[a reason]"}
        for name in ("cycles", "speedups"):
            found[name] += [
                {**row, "mode": GRAPH, "phases_ms": {"cycle": 1}} for row in found[name]
            ]
        cycles = {
            (row["loop"], row["mode"]): CycleTimes(row["ms"], {}, 1.0) for row in found["cycles"]
        }
        found["goals"] = goals(cycles, found["parts_ms"], found["floors_ms"], 24.0, 60, False)
    return made


@pytest.mark.parametrize("change", [copy.deepcopy, with_graphs])
def test_tables_and_image_carry_the_label(document, tmp_path, change):
    made = change(document)
    console = Console(width=80, record=True)
    print_run(made, console)
    for found in made["prompts"]:
        print_prompt(found, console)
    text = console.export_text()
    assert text.count(LABEL) >= 9 and "NOT of that size: scaled to tiny" in text
    for one in made["published"]:
        assert f"{one['speedup']:.2f}x" in text
    if change is with_graphs:
        assert text.count("reached") + text.count("SHORT") == 2 * (len(GOALS) - 1)
        assert "no graph of commit: [a reason]" in text
    plot.draw(made, tmp_path / "out.svg")
    drawn = (tmp_path / "out.svg").read_text()  # its words are comments there
    assert LABEL in drawn and "scaled to tiny" in drawn


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("gpt",), "SHAPE: wanted one of llava-1.5-7b"),
        ((), "wanted SHAPE, got none"),
        (
            ("llava-1.5-7b", "--draft-vocab", "40000"),
            "--draft-vocab: wanted 1 to 32064 tokens, got 40000",
        ),
        (("llava-1.5-7b", "--layers", "0"), "--layers: wanted at least 1, got 0"),
        (("llava-1.5-7b", "--compare"), "wanted known options, got --compare"),
        (("llava-1.5-7b", "--model", "x"), "wanted known options, got --model"),
        (("llava-1.5-7b", "--policy", "cost"), "wanted known options, got --policy"),
        (
            ("llava-1.5-7b", "--drafter", "x"),
            f"--drafter: wanted one of {', '.join(drafter_names())}, got 'x'",
        ),
        (("llava-1.5-7b", "--accepted", "7"), "--accepted: wanted a mean of 0 to 6"),
        (("llava-1.5-7b", "--nodes", "6"), "--nodes: wanted at least 7"),
        (("llava-1.5-7b", "--nodes", "999"), "nodes: wanted 2..256"),
        (("llava-1.5-7b", "--temperature", "1"), "wanted known options, got --temperature"),
        (("llava-1.5-7b", "--count", "3"), "wanted known options, got --count"),
        (("llava-1.5-7b", "--repeat", "0"), "--repeat: wanted at least 1, got 0"),
        (("llava-1.5-7b", "--prompt-rows", "5000"), "--prompt-rows: wanted 12 to 4095"),
        (("llava-1.5-7b", "--max-new-tokens", "0"), "--max-new-tokens: wanted at least"),
    ],
)
def test_bad_input_is_named_before_anything_is_made(monkeypatch, arguments, says):
    monkeypatch.setattr("bench.synthetic.run.random_target", lambda *_: pytest.fail("made"))
    with pytest.raises(HivisError) as error:
        synthetic.main(["--quick", *arguments])
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--shape", "llava-1.5-7b", "--scale", "tiny"),
            "--shape: wanted .* bench.synthetic SHAPE",
        ),
        (("--shape=gpt",), "--shape: wanted .* bench.synthetic SHAPE"),
        (("--accepted", "3"), "wanted known options, got --accepted 3"),
        (("--layers", "3"), "wanted known options, got --layers 3"),
        (("--hf-static",), "wanted known options, got --hf-static"),
        (("--compile",), "wanted known options, got --compile"),
    ],
)
def test_the_headline_benchmark_has_none_of_these_options(arguments, says):
    with pytest.raises(HivisError, match=says) as error:
        latency.main(["--quick", *arguments])
    assert "\n" not in str(error.value)


def test_prompts_that_do_not_fit_are_refused():
    with pytest.raises(HivisError, match="context: wanted at most 4096 positions"):
        synthetic.main(["--quick", "llava-1.5-7b", "--scale", "tiny", "--prompt-rows", "4090"])
    with pytest.raises(HivisError, match="--prompt-rows: wanted 12 to 4095, got 3"):
        synthetic.main(["--quick", "llava-1.5-7b", "--scale", "tiny", "--prompt-rows", "3"])
