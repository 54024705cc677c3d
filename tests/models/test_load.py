"""Loading models, prompts and images: what is bad is named in one line, and nothing is run."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig

import hivis
from hivis.bundled import paths
from hivis.core.hub import MODEL_FILES, PROCESSOR_FILES
from hivis.core.sampling import SamplingParams
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.errors import HivisError
from hivis.models.load import load_model, load_target
from hivis.models.processor import MAX_PIXELS, open_image
from tests.helpers.small_llava import random_llava

QUESTION = "What is in the image?"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_llava().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundled():
    return load_target(paths.TARGET)


def one_line(error: pytest.ExceptionInfo[HivisError]) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


def copy_of(saved: Path, folder: Path) -> Path:
    for file in saved.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_saved_model_loads(saved):
    model = load_model(saved)
    weights = random_llava().state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("load", [load_model, load_target])
@pytest.mark.parametrize("path", ["./nothing", "~/nothing", "/nothing", "nothing", Path("a/b")])
def test_what_is_neither_a_folder_nor_a_hub_name(monkeypatch, tmp_path, load, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HivisError) as error:
        load(path)
    assert one_line(error) == f"model: wanted a folder or a hub name, got {path}"


def test_a_hub_name_is_resolved_once(monkeypatch):
    """The folder that a stand-in for the hub names is all that is read; the name is kept."""
    asked = []

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision, tuple(allow_patterns)))
        return str(paths.TARGET)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    target, _ = load_target("someone/model")
    assert asked == [("someone/model", None, MODEL_FILES)]
    assert target.model.config.name_or_path == "someone/model"
    wrapped = hivis.wrap(target.model, "none")
    assert asked[1:] == [("someone/model", None, PROCESSOR_FILES)]
    assert wrapped.processor is not None


def test_a_config_is_read_once(saved, monkeypatch):
    read, real = [], PreTrainedConfig._get_config_dict.__func__

    def spy(cls, path, **more):
        read.append(path)
        return real(cls, path, **more)

    monkeypatch.setattr(PreTrainedConfig, "_get_config_dict", classmethod(spy))
    load_model(saved)
    assert read == [saved]


@pytest.mark.parametrize("kind", ["evil", None, {"a": 1}])
def test_a_type_that_transformers_does_not_know(saved, tmp_path, kind):
    folder = copy_of(saved, tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": kind} if kind else {}))
    with pytest.raises(HivisError) as error:
        load_model(folder)
    wanted = "config.json: model_type: wanted one that transformers knows, got "
    assert one_line(error) == wanted + ("none" if kind is None else repr(kind))


def test_folder_without_config(tmp_path):
    with pytest.raises(HivisError) as error:
        load_model(tmp_path)
    assert "config.json" in one_line(error)


def test_a_pickle_is_not_opened(saved, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "it ran",))

    folder = copy_of(saved, tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(HivisError) as error:
        load_model(folder)
    assert "pytorch_model.bin, a pickle" in one_line(error)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("keep", [0, 7, 100, 20_000])
def test_truncated_weights(saved, tmp_path, keep):
    folder = copy_of(saved, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(HivisError) as error:
        load_model(folder)
    assert str(folder) in one_line(error)


def test_a_weight_that_is_missing_is_not_made_up(saved, tmp_path):
    folder = copy_of(saved, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    gone = sorted(name for name in tensors if "language_model" in name and "mlp" in name)[:2]
    kept = {name: tensor for name, tensor in tensors.items() if name not in gone}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(HivisError) as error:
        load_model(folder)
    assert "mlp" in one_line(error) and "and 1 more" in one_line(error)


def test_a_pickle_named_safetensors(saved, tmp_path):
    folder = copy_of(saved, tmp_path)
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(HivisError) as error:
        load_model(folder)
    one_line(error)


def test_another_kind_of_model(saved, tmp_path):
    folder = copy_of(saved, tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(HivisError) as error:
        load_model(folder)
    assert "wanted one of llava" in one_line(error)


def test_images_that_are_none(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("not an image")
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    half = tmp_path / "half.png"
    half.write_bytes(whole.read_bytes()[:600])
    for bad in (text, half, tmp_path / "missing.png", tmp_path):
        with pytest.raises(HivisError) as error:
            open_image(bad)
        assert str(bad) in one_line(error)


def test_huge_images_are_refused_before_they_are_decoded(tmp_path):
    """A header that announces more pixels than there is memory for, and nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", MAX_PIXELS, 2, 8, 2, 0, 0, 0)
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises(HivisError) as error:
        open_image(path)
    assert "pixels" in one_line(error)


@pytest.mark.parametrize(
    ("prompt", "images", "raw"),
    [
        ("USER: no slot ASSISTANT:", 1, True),
        ("USER: <image><image> two slots ASSISTANT:", 1, True),
        ("<image> a slot and no image", 0, False),
        ("<image> one slot for two images", 2, False),
    ],
)
def test_slots_and_images_must_match(bundled, prompt, images, raw):
    image = Image.new("RGB", (160, 160))
    with pytest.raises(HivisError) as error:
        bundled[1](prompt, [image] * images, raw=raw)
    message = one_line(error)
    assert f"({images})" in message and f"got {prompt.count('<image>')}" in message


def test_empty_prompt(bundled):
    with pytest.raises(HivisError, match="prompt"):
        bundled[1]("  \n ")


@pytest.mark.parametrize("images", ["a.png", [5], [Image.new("RGB", (0, 3))]])
def test_images_of_the_wrong_kind(bundled, images):
    with pytest.raises(HivisError, match="^images?: wanted"):
        bundled[1](QUESTION, images)


def test_a_processor_without_chat_template(bundled):
    bare = copy.copy(bundled[1].processor)
    bare.chat_template = None
    with pytest.raises(HivisError) as error:
        dataclasses.replace(bundled[1], processor=bare)(QUESTION, [])
    assert "raw=True" in one_line(error)


def test_slots_in_the_prompt_and_slots_added_are_the_same(bundled):
    image = Image.effect_mandelbrot((160, 160), (-2, -1, 1, 1), 20).convert("RGB")
    added = bundled[1](QUESTION, [image])
    verbatim = bundled[1](f"USER: <image>\n{QUESTION} ASSISTANT:", [image], raw=True)
    assert torch.equal(added.tokens, verbatim.tokens)
    assert torch.equal(added.features["pixel_values"], verbatim.features["pixel_values"])


def test_the_bundled_model_answers_like_generate(bundled):
    target, processor = bundled
    image = sorted(paths.EVAL.rglob("*.png"))[0]
    inputs = processor(QUESTION, [image])
    ours = generate(Engine(target), inputs, SamplingParams(max_new_tokens=48))
    theirs = load_model(paths.TARGET).generate(
        input_ids=inputs.tokens,
        attention_mask=torch.ones_like(inputs.tokens),
        **inputs.features,
        max_new_tokens=48,
        do_sample=False,
    )
    assert list(ours.tokens) == theirs[0, inputs.length :].tolist()
    assert processor.decode(ours.tokens).strip()
