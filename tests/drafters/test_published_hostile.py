"""Published checkpoints whose files are damaged, hostile or of another kind."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.load import load_drafter
from hivis.drafters.vispec import ViSpecDrafter
from hivis.errors import HivisError
from tests.helpers.published_checkpoints import E, write


class Code:
    """A pickle of this runs code when it is loaded without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def config(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        raw = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in raw.items() if value != "drop"}))

    return spoil


def tensors(drop: str = "", **extra: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "pytorch_model.bin"
        held = torch.load(path, weights_only=True)
        held |= {key.replace("__", "."): value for key, value in extra.items()}
        held.pop(drop, None)
        torch.save(held, path)

    return spoil


def file(make: Callable[[Path], object], name: str = "pytorch_model.bin") -> Callable[[Path], None]:
    return lambda folder: None if make(folder / name) is None else None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def legacy(path: Path) -> None:
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    cut(path)


BAD = {
    "no config": (lambda f: (f / "config.json").unlink(), "wanted a drafter's config"),
    "config cut": (file(cut, "config.json"), "wanted JSON"),
    "config nested": (file(lambda p: p.write_text("[" * 9999), "config.json"), "wanted JSON"),
    "no hidden_size": (config(hidden_size="drop"), "wanted hidden_size of a published drafter"),
    "no rms_norm_eps": (config(rms_norm_eps="drop"), "wanted rms_norm_eps"),
    "two layers": (config(num_hidden_layers=2), "num_hidden_layers: wanted 1, got 2"),
    "another activation": (config(hidden_act="gelu"), "hidden_act: wanted 'silu', got 'gelu'"),
    "scaled positions": (config(rope_scaling={"type": "linear", "factor": 2.0}), "rope_scaling"),
    "heads": (config(num_attention_heads=5), "hidden_size: wanted a multiple of 5 heads, got 64"),
    "no heads": (config(num_attention_heads=0), "num_attention_heads: wanted a whole number"),
    "size a text": (config(hidden_size="64"), "hidden_size: wanted a whole number"),
    "vocabulary a text": (config(vocab_size="x"), "vocab_size: wanted a whole number"),
    "theta": (config(rope_theta=-1), "rope_theta: wanted a positive number"),
    "other heads": (config(num_key_value_heads=2), "k_proj.weight: wanted shape [32, 64]"),
    "other vocabulary": (config(vocab_size=9), "embed_tokens.weight: wanted shape [9, 64]"),
    "a bias missing": (tensors(drop="fc.bias"), "wanted fc.bias, got no such tensor"),
    "no bias, no weight": (
        lambda f: (config(bias=False)(f), tensors(drop="fc.bias")(f), tensors(drop="fc.weight")(f)),
        "wanted a HiViS, ViSpec or EAGLE-2 drafter",
    ),
    "no bias, no weight, but a residual": (
        lambda f: (
            config(bias=False)(f),
            tensors(drop="fc.bias")(f),
            tensors(drop="fc.weight", residual=torch.ones(2, E))(f),
        ),
        "wanted fc.bias, fc.weight, got no such tensor",
    ),
    "no weights": (lambda f: (f / "pytorch_model.bin").unlink(), "got neither"),
    "weights cut": (file(cut), "wanted a whole file of tensors"),
    "old format cut": (file(legacy), "pytorch_model.bin: wanted"),
    "weights empty": (file(lambda p: p.write_bytes(b"")), "wanted a whole file of tensors"),
    "weights noise": (file(lambda p: p.write_bytes(b"\x80\x02noise" * 9)), "pytorch_model.bin: w"),
    "code": (file(lambda p: torch.save({"fc.weight": Code(p.parent / "mark")}, p)), "alone, got"),
    "bare code": (
        file(lambda p: p.write_bytes(pickle.dumps(Code(p.parent / "mark"), protocol=2))),
        ": wanted",
    ),
    "a list": (file(lambda p: torch.save([torch.ones(2)], p)), "wanted tensors by name, got list"),
    "no tensors": (file(lambda p: torch.save({"fc.weight": 3}, p)), "wanted tensors by name"),
    "nothing": (file(lambda p: torch.save({}, p)), "got no tensor"),
    "key missing": (tensors(drop="layers.0.mlp.up_proj.weight"), "wanted layers.0.mlp.up_proj"),
    "key unexpected": (tensors(head__weight=torch.ones(2)), "got head.weight too"),
    "an input norm": (tensors(layers__0__input_layernorm__weight=torch.ones(E)), "input_layernorm"),
    "shape": (tensors(fc__weight=torch.ones(E, E)), "fc.weight: wanted shape [64, 128]"),
    "whole numbers": (tensors(fc__weight=torch.ones(E, 2 * E).int()), "fc.weight: wanted floats"),
    "EAGLE-3": (tensors(midlayer__mlp__up_proj__weight=torch.ones(2)), "got EAGLE-3"),
    "residual flat": (tensors(residual=torch.ones(E)), "residual: wanted [R, E]"),
    "residual and no room": (tensors(residual=torch.ones(3, E)), "fc.weight: wanted shape"),
    "half a ViSpec": (tensors(img_fc__bias=torch.ones(E)), "wanted a HiViS, ViSpec or EAGLE-2"),
    "queries flat": (tensors(imadpt__q=torch.ones(2, E)), "imadpt.q: wanted [Q, H, D]"),
    "an adaptor alone": (tensors(imadpt__q=torch.ones(2, 4, 16)), "wanted imadpt.k_proj.weight"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_checkpoint_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    write(tmp_path, "EAGLE-Vicuna")
    spoil, message = BAD[case]
    spoil(tmp_path)
    with pytest.raises(HivisError) as caught:
        load_drafter(tmp_path, hiding={})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "mark").exists()


def test_the_code_of_the_hostile_pickle_would_run(tmp_path: Path) -> None:
    """Else the two cases above would show nothing."""
    torch.save(Code(tmp_path / "mark"), tmp_path / "code.bin")
    torch.load(tmp_path / "code.bin", weights_only=False)
    assert (tmp_path / "mark").is_dir()


def test_a_cut_safetensors_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "ViSpec-llava")
    cut(tmp_path / "model.safetensors")
    with pytest.raises(HivisError, match="wanted a safetensors file"):
        load_drafter(tmp_path)


def test_safetensors_go_before_a_pickle(tmp_path: Path) -> None:
    write(tmp_path, "HiViS-llava")
    torch.save(Code(tmp_path / "mark"), tmp_path / "pytorch_model.bin")
    assert isinstance(load_drafter(tmp_path, hiding={}), HiViSDrafter)


def test_a_config_of_its_own_for_a_checkpoint_without_one(tmp_path: Path) -> None:
    write(tmp_path, "ViSpec-llava")
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    with pytest.raises(HivisError, match="config.json: wanted a drafter's config"):
        load_drafter(tmp_path)
    assert isinstance(load_drafter(tmp_path, config=tmp_path / "other.json"), ViSpecDrafter)
