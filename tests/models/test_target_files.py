"""Sizes and tables of a target, from its files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hivis.drafters.config import HiViSConfig
from hivis.errors import HivisError
from hivis.models.drafter_sizes import read_sizes
from hivis.training.target_tables import read_target_tables
from tests.helpers.small_llava import random_llava


def config(folder: Path, **text: object) -> Path:
    """The config of LLaVA-1.5 as it is published: what is Llama's default is left out."""
    folder.mkdir(exist_ok=True)
    text = {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064, **text}
    document = {
        "model_type": "llava",
        "image_token_index": 32000,
        "text_config": text,
        "vision_config": {"model_type": "clip_vision_model", "hidden_size": 768},
    }
    (folder / "config.json").write_text(json.dumps(document))
    return folder


def test_sizes_that_a_config_leaves_out_are_the_defaults(tmp_path: Path) -> None:
    sizes = read_sizes(config(tmp_path, rms_norm_eps=1e-5))
    assert sizes.layer == {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "vocab_size": 32064,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
    }
    assert not sizes.tied
    HiViSConfig(**sizes.layer)


def test_sizes_that_a_config_names(tmp_path: Path) -> None:
    sizes = read_sizes(
        config(
            tmp_path,
            hidden_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=24,
            rope_theta=777.0,
            intermediate_size=96,
            tie_word_embeddings=True,
        )
    )
    assert sizes.layer["rope_theta"] == 777.0 and sizes.layer["rms_norm_eps"] == 1e-6
    assert (sizes.layer["num_key_value_heads"], sizes.layer["head_dim"]) == (2, 24)
    assert sizes.tied


def test_what_has_no_sizes(tmp_path: Path) -> None:
    with pytest.raises(HivisError, match="^target .*: wanted its config.json, got none$"):
        read_sizes(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(HivisError, match="model type: wanted one of"):
        read_sizes(tmp_path)


@pytest.mark.parametrize("shards", ["1GB", "100KB"])
def test_tables_are_those_of_the_model(tmp_path: Path, shards: str) -> None:
    model = random_llava()
    model.save_pretrained(tmp_path, max_shard_size=shards)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shards == "100KB")
    tables = read_target_tables(tmp_path, "cpu", tied=False)
    assert torch.equal(tables.embedding, model.get_input_embeddings().weight)
    assert torch.equal(tables.head, model.lm_head.weight)


def test_only_a_tied_head_may_be_missing(tmp_path: Path) -> None:
    table = torch.randn(5, 4)
    save_file({"model.embed_tokens.weight": table}, tmp_path / "model.safetensors")
    tied = read_target_tables(tmp_path, "cpu", tied=True)
    assert torch.equal(tied.head, table) and torch.equal(tied.embedding, table)
    with pytest.raises(HivisError, match="wanted lm_head.weight in"):
        read_target_tables(tmp_path, "cpu", tied=False)
    save_file({"lm_head.weight": table}, tmp_path / "model.safetensors")
    with pytest.raises(HivisError, match="wanted embed_tokens.weight in"):
        read_target_tables(tmp_path, "cpu", tied=True)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 30)
    with pytest.raises(HivisError, match="wanted a safetensors file"):
        read_target_tables(tmp_path, "cpu", tied=True)


def test_drafters_of_qwen_hide_the_markers_too(tmp_path: Path) -> None:
    text = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "qwen2_5_vl", "text_config": text})
    )
    sizes = read_sizes(tmp_path)
    assert sizes.layer["attention_bias"] and sizes.layer["head_dim"] == 16
    assert sizes.hiding == {"positions": "original", "hide_before": 1, "hide_after": 1}
    assert HiViSConfig(**sizes.layer, **sizes.hiding).hides_itself
    assert read_sizes(config(tmp_path / "llava")).hiding == {}
