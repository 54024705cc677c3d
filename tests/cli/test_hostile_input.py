"""Input that newcomers, other programs and typing errors bring: one clear line, nothing lost."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import hivis
from hivis.api.chat import Chat
from hivis.api.model import Model, Request
from hivis.bundled import paths
from hivis.cli.main import main
from hivis.errors import HivisError
from hivis.policies.registry import policy_names
from tests.helpers.small_llava import random_llava

QUICK = ["--max-new-tokens", "4", "--dtype", "float32", "--device", "cpu", "--policy", "fixed"]
IMAGE = paths.EVAL / "scene00.png"


@pytest.fixture(scope="module")
def model() -> Model:
    return hivis.load(dtype="float32", device="cpu", policy="fixed")


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb", "What\udfff"])
def test_text_that_is_no_unicode(model: Model, text: str, monkeypatch: Any) -> None:
    said = "prompt: wanted Unicode text, got '\\\\ud"
    with pytest.raises(HivisError, match=said):
        model.generate(text, IMAGE)
    with pytest.raises(HivisError, match=said):
        Chat(model).say(text)
    made = []
    with pytest.raises(HivisError, match=f"request 1: {said}"):
        for number, _ in model.batch(["Hello", text], max_new_tokens=4):
            made.append(number)
    assert made == [0]
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    with pytest.raises(HivisError, match=said):
        main(["generate", "--prompt", "-", *QUICK])


@pytest.mark.parametrize("name", ["traced", "prompt", "images", "streamer", "self", "slots"])
def test_what_is_no_setting_cannot_be_set(name: str) -> None:
    with pytest.raises(HivisError, match=f"--set {name}: wanted a generation setting"):
        main(["generate", "--set", f"{name}=1", *QUICK])


def test_a_seed_is_given_once() -> None:
    with pytest.raises(HivisError, match="--set seed: wanted a setting that is given once"):
        main(["generate", "--seed", "3", "--set", "seed=5", *QUICK])


@pytest.mark.parametrize("end", [-1, 2**70, 10**9, [2, -7]])
def test_ends_are_tokens_of_the_model(model: Model, end: Any) -> None:
    with pytest.raises(HivisError, match="eos_token_id: wanted ids from 0 to 2687, got"):
        model.generate("What is this?", IMAGE, eos_token_id=end)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"device_map": "auto"}, "device_map: wanted none"),
        ({"policy": 5}, f"policy: wanted one of {', '.join(policy_names())}, got 5"),
        ({"drafter": 5}, "drafter: wanted a path, a name or a drafter, got 5"),
        ({"model": 5}, "model: wanted a folder or a hub name, got int"),
    ],
)
def test_arguments_of_load(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(HivisError, match=said):
        hivis.load(**arguments)


def test_a_model_is_no_drafter(model: Model) -> None:
    processor = model.processor.processor
    with pytest.raises(HivisError, match="drafter: wanted a path, a name or a drafter"):
        hivis.wrap(model.target.model, random_llava(), processor)


@pytest.mark.parametrize("requests", [None, 5])
def test_requests_are_several(model: Model, requests: Any) -> None:
    with pytest.raises(HivisError, match="requests: wanted several"):
        model.batch(requests)


def test_a_request_checks_its_settings() -> None:
    with pytest.raises(HivisError, match="settings: wanted a mapping, got None"):
        Request("What?", settings=None)  # type: ignore[arg-type]


def test_no_images_can_be_said_in_two_ways(model: Model) -> None:
    none = model.generate("Hello", None, max_new_tokens=4)  # type: ignore[arg-type]
    assert none.tokens == model.generate("Hello", max_new_tokens=4).tokens


def test_the_page_of_a_run_is_found() -> None:
    assert callable(hivis.page.write_page)


# --- files that would be written over


def test_texts_do_not_go_over_their_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": "What?"}) + "\n")
    before = file.read_bytes()
    (tmp_path / "link").symlink_to(file)
    for out in (file, tmp_path / "link", tmp_path / "." / "prompts.jsonl"):
        with pytest.raises(HivisError, match="--out: wanted another file than the prompts'"):
            main(["batch", str(file), "--out", str(out), *QUICK])
    assert file.read_bytes() == before


def test_a_page_does_not_go_over_its_image(tmp_path: Path) -> None:
    image = shutil.copy(IMAGE, tmp_path / "image.png")
    with pytest.raises(HivisError, match="--html: wanted another file than the image"):
        main(["generate", "--image", str(image), "--html", str(image), *QUICK])
    assert Path(image).read_bytes() == IMAGE.read_bytes()


def test_a_byte_order_mark_is_no_fault(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"prompt": "What?"}).encode())
    main(["batch", str(file), *QUICK])
    assert json.loads(capsys.readouterr().out)["number"] == 0


# --- times


def test_time_before_the_prefill_is_told(model: Model, capsys: Any, monkeypatch: Any) -> None:
    import time

    prepare = Model.prepare

    def slowly(self: Model, *args: Any) -> Any:
        time.sleep(0.3)
        return prepare(self, *args)

    monkeypatch.setattr(Model, "prepare", slowly)
    took = model.generate("What is this?", IMAGE, max_new_tokens=2).statistics
    assert took.prepare_ms >= 300
    main(["generate", "--prompt", "What is this?", *QUICK])
    shown = capsys.readouterr().err.split("first token ")[1]
    assert int(shown.split()[0]) >= 300


def test_rows_that_a_chat_kept_are_told(model: Model) -> None:
    talk = Chat(model)
    kept = []
    for question in ("What is this?", "And that?"):
        stream = talk.say(question, IMAGE if not kept else (), max_new_tokens=4)
        for _ in stream:
            pass
        kept.append(stream.result.statistics.kept_rows)
        assert kept[-1] < stream.result.statistics.prompt_rows
    assert kept[0] == 0 and kept[1] > 100
