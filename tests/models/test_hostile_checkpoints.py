"""Checkpoints that are damaged or want to do harm: one line of error, soon, and nothing is run."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hivis
from hivis.api.load_drafter import load_any_drafter
from hivis.bundled import paths
from hivis.errors import HivisError
from hivis.models.drafter_sizes import read_sizes
from hivis.models.load import load_target
from recipes.tiny.draft import write_draft

KINDS = ("target", "drafter", "draft model")
WEIGHTS = "model.safetensors"
#: Seconds that a refusal may take on a busy machine; without the first imports a second or two.
SOON = 20.0
EVIL = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import (
    BaseImageProcessor, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin,
)
class EvilConfig(PretrainedConfig): model_type = "evil"
class EvilModel(PreTrainedModel): config_class = EvilConfig
class EvilTokenizer(PreTrainedTokenizerFast): pass
class EvilProcessor(ProcessorMixin): pass
class EvilImageProcessor(BaseImageProcessor): pass
"""


@pytest.fixture(scope="module")
def bundled():
    return load_target(paths.TARGET)


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("draft")
    write_draft(folder, paths.TARGET)
    return folder


class Checkpoint:
    """A copy of a good checkpoint, for a test to spoil, and how it is loaded."""

    def __init__(self, kind: str, source: Path, folder: Path, bundled: Any) -> None:
        self.kind, self.folder, self._bundled = kind, folder, bundled
        self.marker = folder.parent / "it ran"
        for file in source.iterdir():
            if file.is_file():
                os.link(file, folder / file.name)

    def write(self, name: str, content: bytes | str) -> None:
        (self.folder / name).unlink(missing_ok=True)  # a link to the good one
        if isinstance(content, str):
            content = content.encode()
        (self.folder / name).write_bytes(content)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def change(self, name: str, **entries: Any) -> None:
        self.write(name, json.dumps(json.loads(self.read(name)) | entries))

    def load(self) -> Any:
        if self.kind == "target":
            return hivis.load(self.folder, device="cpu", dtype="float32")
        return load_any_drafter(self.folder, *self._bundled)

    def refused(self) -> str:
        """Loading ends in one line, soon, and has run nothing."""
        begun = time.perf_counter()
        with pytest.raises(HivisError) as caught:
            self.load()
        message = str(caught.value)
        assert "\n" not in message and len(message) < 500, message
        assert not self.marker.exists()
        assert time.perf_counter() - begun < SOON
        return message


@pytest.fixture(params=KINDS)
def checkpoint(request, tmp_path: Path, draft: Path, bundled: Any) -> Checkpoint:
    source = {"target": paths.TARGET, "drafter": paths.HIVIS, "draft model": draft}[request.param]
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    return Checkpoint(request.param, source, folder, bundled)


def header_of(weights: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", weights[:8])
    return json.loads(weights[8 : 8 + length]), weights[8 + length :]


def with_header(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# --- Weights


@pytest.mark.parametrize("seed", range(6))
def test_weights_cut_anywhere(checkpoint: Checkpoint, seed: int):
    whole = checkpoint.read(WEIGHTS)
    (header,) = struct.unpack("<Q", whole[:8])
    end = 8 if seed == 0 else header + 8 if seed < 3 else len(whole) - 1
    checkpoint.write(WEIGHTS, whole[: random.Random(seed).randrange(end)])
    checkpoint.refused()


def entry(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """A header in which one tensor is not what it was."""

    def change(header: dict[str, Any]) -> Any:
        name = sorted(name for name in header if name != "__metadata__")[1]
        return header | {name: header[name] | changes}

    return change


HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "not JSON": lambda header: b"{" * 50,
    "a list": lambda header: [header],
    "nothing": lambda header: {},
    "deeply nested": lambda header: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a negative size": entry(shape=[-4, -4]),
    "a size beyond all memory": entry(shape=[1 << 40, 1 << 20]),
    "sizes whose product overflows": entry(shape=[1 << 32, 1 << 32, 2]),
    "sizes that are no numbers": entry(shape=["a"]),
    "an unknown dtype": entry(dtype="OBJECT"),
    "offsets past the end": entry(data_offsets=[1 << 40, 1 << 41]),
    "offsets that go back": entry(data_offsets=[64, 0]),
    "offsets on another tensor": entry(data_offsets=[0, 64]),
    "negative offsets": entry(data_offsets=[-64, 0]),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_of_weights(checkpoint: Checkpoint, case: str):
    header, data = header_of(checkpoint.read(WEIGHTS))
    checkpoint.write(WEIGHTS, with_header(HEADERS[case](header), data))
    checkpoint.refused()


@pytest.mark.parametrize("length", [0, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_headers_of_absurd_length(checkpoint: Checkpoint, length: int):
    checkpoint.write(WEIGHTS, struct.pack("<Q", length) + checkpoint.read(WEIGHTS)[8:])
    checkpoint.refused()


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", [WEIGHTS, "pytorch_model.bin", "model.pt", "model.pth"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_runs_nothing(checkpoint: Checkpoint, name: str, zipped: bool):
    checkpoint.write(WEIGHTS, "")
    (checkpoint.folder / WEIGHTS).unlink()
    bomb = {"weight": Bomb(checkpoint.marker)}
    if zipped:
        torch.save(bomb, checkpoint.folder / name)
    else:
        checkpoint.write(name, pickle.dumps(bomb))
    checkpoint.refused()


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
@pytest.mark.parametrize("to", ["/dev/zero", "nowhere", "itself", "a folder", "a pipe"])
def test_files_that_are_none(checkpoint: Checkpoint, name: str, to: str):
    place = checkpoint.folder / name
    place.unlink()
    if to == "a folder":
        place.mkdir()
    elif to == "a pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(place if to == "itself" else to)
    checkpoint.refused()


def test_links_as_the_hub_makes_them_are_followed(checkpoint: Checkpoint, tmp_path: Path):
    (tmp_path / "blobs").mkdir()
    for file in sorted(checkpoint.folder.iterdir()):
        shutil.move(file, tmp_path / "blobs" / file.name)
        file.symlink_to(Path("..") / "blobs" / file.name)
    assert checkpoint.load() is not None


@pytest.mark.parametrize("kind", ["absolute", "up", "a pickle", "no text", "not JSON", "a list"])
def test_an_index_of_shards_names_files_beside_it_alone(
    checkpoint: Checkpoint, tmp_path: Path, kind: str
):
    if checkpoint.kind == "drafter":
        pytest.skip("a drafter's weights are one file")
    weights = checkpoint.read(WEIGHTS)
    (tmp_path / "outside.safetensors").write_bytes(weights)
    (checkpoint.folder / WEIGHTS).unlink()
    checkpoint.write("part.safetensors", weights)
    checkpoint.write("pytorch_model-1.bin", pickle.dumps(Bomb(checkpoint.marker)))
    shard = {
        "absolute": str(tmp_path / "outside.safetensors"),
        "up": "../outside.safetensors",
        "a pickle": "pytorch_model-1.bin",
        "no text": 5,
    }.get(kind, "")
    names = [name for name in header_of(weights)[0] if name != "__metadata__"]
    index: Any = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
    text = {"not JSON": "{", "a list": "[]"}.get(kind) or json.dumps(index)
    checkpoint.write(WEIGHTS + ".index.json", text)
    checkpoint.refused()
    good = index | {"weight_map": dict.fromkeys(names, "part.safetensors")}
    checkpoint.write(WEIGHTS + ".index.json", json.dumps(good))
    assert checkpoint.load() is not None


def test_an_adapter_does_not_lead_to_another_model(checkpoint: Checkpoint):
    if checkpoint.kind == "drafter":
        pytest.skip("transformers does not load it")
    checkpoint.write("adapter_config.json", json.dumps({"base_model_name_or_path": "/elsewhere"}))
    assert "adapter_config.json" in checkpoint.refused()


# --- Configs


CONFIGS = {
    "nothing": "",
    "not JSON": "{",
    "a list": "[]",
    "deeply nested": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a number of 100,000 digits": '{"hidden_size": ' + "9" * 100_000 + "}",
    "not text": b"\xff\xfe\x00\x80",
    "another model": '{"model_type": "evil"}',
    "a type that is none": '{"model_type": {"a": 1}}',
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs(checkpoint: Checkpoint, case: str):
    checkpoint.write("config.json", CONFIGS[case])
    checkpoint.refused()


SIZES = [
    ("num_hidden_layers", 10**9), ("num_hidden_layers", -1), ("num_hidden_layers", 10**30),
    ("hidden_size", 1 << 40), ("hidden_size", float("nan")), ("hidden_size", "64"),
    ("hidden_size", -64), ("hidden_size", None), ("intermediate_size", 1 << 50),
    ("vocab_size", 1 << 40), ("vocab_size", -1), ("num_attention_heads", 0),
    ("num_attention_heads", 10**9), ("num_key_value_heads", 7), ("head_dim", -16),
    ("head_dim", 1 << 40), ("rms_norm_eps", "a"), ("num_hidden_layers", 2.5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SIZES)
def test_sizes_that_cannot_be(checkpoint: Checkpoint, name: str, value: Any):
    config = json.loads(checkpoint.read("config.json"))
    if checkpoint.kind == "drafter" and name not in config:
        pytest.skip("not an entry of a drafter's config")
    (config.get("text_config") or config)[name] = value
    checkpoint.write("config.json", json.dumps(config))
    checkpoint.refused()


@pytest.mark.parametrize(
    ("name", "value"),
    [("image_size", 1 << 30), ("patch_size", 0), ("num_hidden_layers", 10**9), ("patch_size", -1)],
)
def test_sizes_of_the_tower_that_cannot_be(checkpoint: Checkpoint, name: str, value: int):
    if checkpoint.kind != "target":
        pytest.skip("one tower is as good as another")
    config = json.loads(checkpoint.read("config.json"))
    config["vision_config"][name] = value
    checkpoint.write("config.json", json.dumps(config))
    checkpoint.refused()


def test_layers_that_a_config_lists_at_once(tmp_path: Path):
    config = {"model_type": "qwen2_5_vl", "text_config": {"num_hidden_layers": 10**9}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / WEIGHTS).touch()
    for load in (hivis.load, read_sizes):
        with pytest.raises(HivisError, match="num_hidden_layers: wanted 1..1024, got 1000000000"):
            load(tmp_path)


# --- Code


def plant_code(checkpoint: Checkpoint) -> None:
    for name in ("evil.py", "modeling_evil.py", "custom_generate/generate.py"):
        place = checkpoint.folder / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(EVIL.format(marker=str(checkpoint.marker)))


AUTO = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModel": "evil.EvilModel",
    "AutoModelForImageTextToText": "evil.EvilModel",
    "AutoModelForCausalLM": "evil.EvilModel",
    "AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"],
    "AutoProcessor": "evil.EvilProcessor",
    "AutoImageProcessor": "evil.EvilImageProcessor",
}
FILES = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "generation_config.json",
)
NAMED = {
    "tokenizer_class": "EvilTokenizer",
    "processor_class": "EvilProcessor",
    "image_processor_type": "EvilImageProcessor",
    "custom_generate": "./custom_generate",
    "auto_map": AUTO,
    "trust_remote_code": True,
    "architectures": ["EvilModel"],
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_code_in_a_checkpoint_is_not_run(checkpoint: Checkpoint, name: str, known: bool):
    """With names that transformers knows the checkpoint may load; the code is not touched."""
    plant_code(checkpoint)
    entries: dict[str, Any] = {"auto_map": AUTO, "trust_remote_code": True} if known else NAMED
    if name == "config.json" and not known:
        entries = entries | {"model_type": "evil"}
    there = (checkpoint.folder / name).exists()
    old = json.loads(checkpoint.read(name)) if there else {}
    checkpoint.write(name, json.dumps(old | entries))
    begun = time.perf_counter()
    try:
        checkpoint.load()
    except HivisError as error:
        assert "\n" not in str(error)
    assert not checkpoint.marker.exists() and time.perf_counter() - begun < SOON


def test_the_planted_code_would_run(tmp_path: Path):
    exec(EVIL.format(marker=str(tmp_path / "it ran")), {})
    assert (tmp_path / "it ran").exists()


# --- Processors

TOKENIZERS = {
    "nothing": "",
    "a list": "[]",
    "deeply nested": "[" * 100_000 + "]" * 100_000,
    "no model": "{}",
    "a model of no kind": '{"model": {"type": "Evil", "vocab": {}}}',
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers(checkpoint: Checkpoint, case: str):
    if checkpoint.kind == "drafter":
        pytest.skip("a drafter has no tokenizer")
    checkpoint.write("tokenizer.json", TOKENIZERS[case])
    checkpoint.refused()


TEMPLATES = {
    "the classes of Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a file": "{{ messages.__init__.__globals__['__builtins__'].open('/etc/passwd').read() }}",
    "an attribute by name": "{{ (''|attr('__class__')).mro() }}",
    "another template": "{% include '/etc/passwd' %}",
    "a change of what it is given": "{{ messages.append(1) }}",
    "a range without end": "{% for i in range(10**12) %}{% endfor %}",
    "no template": "{% for %}",
    "an error of its own": "{{ raise_exception('one\ntwo') }}",
    "a recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a division": "{{ 1 // 0 }}",
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_chat_templates_reach_nothing(tmp_path: Path, bundled: Any, case: str):
    checkpoint = Checkpoint("target", paths.TARGET, tmp_path, bundled)
    checkpoint.write("chat_template.jinja", TEMPLATES[case])
    model = checkpoint.load()
    begun = time.perf_counter()
    with pytest.raises(HivisError, match="^chat template: wanted [^\n]*$"):
        model.prepare("What is it?")
    assert time.perf_counter() - begun < SOON
