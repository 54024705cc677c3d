"""bench/latency.py: its JSON schema, its exit codes, and what it says about bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import latency
from hivis import ops
from hivis.errors import HivisError

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "bench" / "latency.py"
ROW = {
    "method", "temperature", "tokens_per_s", "speedup_vs_plain", "speedup_vs_hf",
    "accepted_length", "tokens_per_cycle", "drafter_prefill_share", "first_token_ms", "latency_ms",
    "phases_ms", "identical", "identical_prompts", "prompts", "tokens",
}  # fmt: skip
QUICK = ("--count", "1", "--max-new-tokens", "12", "--dtype", "float32")


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], cwd=cwd, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    done = bench(*QUICK, "--json", "out.json", "--plot", "out.png", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "out.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(folder.glob("*.part"))
    return json.loads((folder / "out.json").read_text())


def test_schema(document):
    assert {"device", "versions", "commit", "settings", "rows"} <= set(document)
    assert {"torch", "transformers", "hivis"} <= set(document["versions"])
    for row in document["rows"]:
        assert set(row) >= ROW
        assert row["tokens_per_s"] > 0
        assert set(row["latency_ms"]) == {"median", "p95"}
    assert {row["temperature"] for row in document["rows"]} == {0.0, 1.0}


def test_rows(document):
    by_key = {(row["method"], row["temperature"]): row for row in document["rows"]}
    for temperature in (0.0, 1.0):
        plain = by_key["hivis, plain", temperature]
        drafted = by_key["hivis + HiViS", temperature]
        assert plain["speedup_vs_plain"] == 1.0
        assert by_key["HF generate", temperature]["speedup_vs_hf"] == 1.0
        assert drafted["identical"] is True
        assert drafted["tokens"] == plain["tokens"]
        assert drafted["tokens_per_cycle"] == pytest.approx(drafted["accepted_length"] + 1)
        assert 0 < drafted["drafter_prefill_share"] < 0.6
        assert plain["accepted_length"] == 0
    assert by_key["HF generate", 0.0]["identical"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "./nowhere"), "nowhere"),
        (("--drafter", "./nowhere"), "nowhere"),
        (("--json", "no/such/folder/out.json"), "--json"),
        (("--prompts", "missing.jsonl"), "missing.jsonl"),
        (("--plot", "out.xyz"), ".png"),
        (("--prompts", "bad.jsonl"), "bad.jsonl:2"),
        (("--prompts", "odd.jsonl"), "odd.jsonl:1"),
        (("--prompt", "What is this?", "--image", "bad.jsonl"), "bad.jsonl"),
        (("--image", "bad.jsonl"), "--prompt"),
        (("--prompt", ""), "prompt"),
        (("--json", "/proc/out.json"), "--json"),
        (("--temperature", "-1"), "temperature"),
        (("--temperature", "nan"), "temperature"),
        (("--top-p", "0"), "top_p"),
        (("--nodes", "1"), "nodes"),
        (("--nodes", "200"), "nodes"),
        (("--max-new-tokens", "100000"), "context"),
        (("--threads", "0"), "--threads"),
        (("--count", "0"), "--count"),
    ],
)
def test_bad_input_is_named_in_one_line(tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text('{"prompt": "What is a cat?"}\nnot json\n')
    Path("odd.jsonl").write_text('{"prompt": "What is a cat?", "image": 5}\n')
    threads = torch.get_num_threads()
    with pytest.raises(HivisError) as error:
        latency.main(["--count", "2", "--max-new-tokens", "4", *arguments])
    assert torch.get_num_threads() == threads
    assert says in str(error.value) and "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"bad.jsonl", "odd.jsonl"}


def test_a_device_without_all_ops_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ops, "missing_on", lambda device: ["tree_attention"])
    with pytest.raises(HivisError, match="--device: .* cuda .*without tree_attention"):
        latency.main(["--device", "cuda"])


@pytest.mark.parametrize("given", [("--nodes", "1"), ("--top-p", "0")])
def test_sizes_and_sampling_are_checked_before_a_model_is_loaded(given):
    with pytest.raises(HivisError, match="^(nodes|top_p): wanted "):
        latency.main(["--model", "./nowhere", *given])


def test_the_command_line_shows_no_traceback(tmp_path):
    done = bench("--model", "./nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert bench("--no-such-option", cwd=tmp_path).returncode == 2
