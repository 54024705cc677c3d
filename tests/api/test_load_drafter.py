"""Drafters by the target that they are loaded for: what their own files leave open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import hivis
from hivis.api.load_drafter import load_any_drafter
from hivis.bundled import paths
from hivis.cli.main import main
from hivis.drafters.config import HiViSConfig
from hivis.errors import HivisError
from hivis.models.drafter_sizes import read_sizes


def publish(folder: Path, target: Path, model_type: str | None) -> None:
    """A HiViS drafter for the target as its authors would publish one, of random weights."""
    sizes = read_sizes(target)
    layer = sizes.layer
    config = HiViSConfig(**layer)
    make = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(shape, generator=make) * 0.1 for name, shape in config.shapes().items()
    }
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    raw: dict[str, Any] = {
        name: layer[name]
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
            "rope_theta",
            "rms_norm_eps",
        )
    }
    raw |= {"num_hidden_layers": 1, "qkv_bias": layer.get("attention_bias", False)}
    raw |= {} if model_type is None else {"model_type": model_type}
    (folder / "config.json").write_text(json.dumps(raw))


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen2_vl", "llava_next"])
@pytest.mark.parametrize("model_type", [None, "llama", "qwen2_5_vl", "llava"])
def test_the_target_decides_how_images_are_hidden(
    tmp_path: Path, family_checkpoint: Any, family_target: Any, kind: str, model_type: str | None
) -> None:
    """Whatever the drafter's config says, as in the authors' code."""
    target, processor = family_target(kind)
    publish(tmp_path / "drafter", family_checkpoint(kind), model_type)
    drafter: Any = load_any_drafter(tmp_path / "drafter", target, processor)
    config = drafter.config
    found = (config.positions, config.hide_before, config.hide_after, drafter.rows)
    if kind.startswith("qwen"):
        assert found == ("original", 1, 2, "all")
    else:
        assert found == ("kept", 0, 0, "text")
    inputs = processor("What is this?", [paths.EVAL / "scene00.png"])
    prefilled = target.prefill(inputs, drafter.rows, inputs.length + 40)
    token = prefilled.logits.argmax(-1)
    drafter.prefill(prefilled.prompt, token, inputs.length + 40)
    text = target.family.text_rows(target.model, inputs.tokens)
    first, last = (~text).nonzero().flatten()[[0, -1]].tolist()
    hidden = ~text
    if kind.startswith("qwen"):
        hidden[first - 1 : last + 3] = True
    kept = (~hidden).nonzero().flatten()
    assert drafter.rows_read == int(drafter.cache.kv_len) == len(kept)
    # Where the next row goes: behind the prompt's last position, or behind the rows that are left.
    following = inputs.length if kind.startswith("qwen") else len(kept)
    assert int(drafter.cache.kv_len) + int(drafter.cache.entries["gap"]) == following


def test_a_config_can_be_named_for_a_checkpoint_without_one(tmp_path: Path) -> None:
    publish(tmp_path / "drafter", paths.TARGET, "llama")
    config = (tmp_path / "drafter" / "config.json").rename(tmp_path / "other.json")
    given: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
    with pytest.raises(HivisError, match="config.json: wanted a drafter's config"):
        hivis.load(paths.TARGET, tmp_path / "drafter", **given)
    model = hivis.load(paths.TARGET, tmp_path / "drafter", drafter_config=config, **given)
    assert model.drafter is not None and model.drafter.method == "hivis"
    wrapped = hivis.wrap(
        model.target.model,
        tmp_path / "drafter",
        model.processor.processor,
        drafter_config=str(config),
    )
    assert wrapped.drafter is not None and wrapped.drafter.method == "hivis"


@pytest.mark.parametrize("use", ["load", "info"])
def test_a_config_for_a_whole_model_is_refused(use: str) -> None:
    """It is loaded with its own."""
    folder, config = paths.DRAFT_VLM, paths.TARGET / "config.json"
    message = "^drafter_config: wanted it for a drafter that is one layer, got it for .*draft_vlm,"
    with pytest.raises(HivisError, match=message):
        if use == "info":
            main(["info", str(folder), "--drafter-config", str(config)])
        else:
            hivis.load(paths.TARGET, folder, drafter_config=config, dtype="float32", device="cpu")


@pytest.mark.parametrize(
    ("drafter", "config", "message"),
    [
        (None, "x.json", "drafter: wanted a path or a name with drafter_config, got none"),
        ("d", 5, "drafter_config: wanted a file, got 5"),
    ],
)
def test_a_config_alone_is_refused(drafter: Any, config: Any, message: str) -> None:
    with pytest.raises(HivisError, match=message):
        hivis.load("nowhere", drafter, drafter_config=config, device="cpu")
