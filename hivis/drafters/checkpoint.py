"""Drafter checkpoints on disk: a directory with ``config.json`` and ``model.safetensors``.

The tensors carry the names of the published HiViS and ViSpec drafters. The target's embedding and
head are not among them: a drafter shares those of the target it runs with. Checkpoints as their
authors published them are read by ``drafters/published.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hivis.drafters.config import HiViSConfig, LayerConfig, ViSpecConfig
from hivis.errors import HivisError, first_line

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "HiViSConfig",
    "LayerConfig",
    "MakeWeights",
    "ViSpecConfig",
    "check_tensors",
    "load",
    "parse",
    "random_tensors",
    "read",
    "read_json",
    "read_safetensors",
    "save",
    "some",
]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_PICKLES = ("pytorch_model.bin", "model.bin", "model.pt", "model.pth")

Config = TypeVar("Config", bound=LayerConfig)
#: Makes the tensors of a drafter of this configuration.
MakeWeights = Callable[[LayerConfig], dict[str, Tensor]]


def check_tensors(config: LayerConfig, tensors: dict[str, Tensor], where: str) -> None:
    """Names and shapes must be exactly those of ``config``.

    Raises:
        HivisError: a tensor is missing, unexpected, or of another shape.
    """
    wanted = config.shapes()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing:
        raise HivisError(f"{where}: wanted {some(missing)}, got no such tensor")
    if extra:
        raise HivisError(f"{where}: wanted only the tensors of a drafter, got {some(extra)} too")
    for name, shape in wanted.items():
        got = tuple(tensors[name].shape)
        if got != shape:
            raise HivisError(f"{where}: {name}: wanted shape {list(shape)}, got {list(got)}")
        if not tensors[name].is_floating_point():
            raise HivisError(f"{where}: {name}: wanted floats, got {tensors[name].dtype}")


def save(directory: str | Path, config: LayerConfig, tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint; the directory is made if it is not there."""
    check_tensors(config, tensors, "drafter weights")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensors[name].detach().cpu().contiguous() for name in config.shapes()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=2) + "\n")


def load(directory: str | Path, kind: type[Config]) -> tuple[Config, dict[str, Tensor]]:
    """Read a checkpoint of one kind, on the CPU and in the dtype it was saved in.

    Raises:
        HivisError: a file is missing or corrupt, or not such a drafter of consistent sizes.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise HivisError(f"drafter: wanted a directory with {CONFIG_FILE}, got {folder}")
    file = folder / CONFIG_FILE
    return read(folder, parse(read_json(file), file, kind))


def read(folder: Path, config: Config) -> tuple[Config, dict[str, Tensor]]:
    """``config``, and the tensors that it asks for, from the weights in ``folder``."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickle = next((name for name in _PICKLES if (folder / name).is_file()), None)
        got = f"{pickle}, a pickle, which is never loaded" if pickle else "no such file"
        raise HivisError(f"{path}: wanted drafter weights as safetensors, got {got}")
    tensors = read_safetensors(path)
    check_tensors(config, tensors, str(path))
    return config, tensors


def read_safetensors(path: Path, endings: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """A file's tensors whose names end so, on the CPU; HivisError if the file is not whole."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name.endswith(endings)}
    except (SafetensorError, OSError) as error:
        raise HivisError(f"{path}: wanted a safetensors file, got {first_line(error)}") from None


def tensor_names(path: Path) -> list[str]:
    """The names of a file's tensors, which are not read; HivisError if it is not whole."""
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise HivisError(f"{path}: wanted a safetensors file, got {first_line(error)}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A config as it is written; HivisError if it is missing or no JSON object."""
    if not path.is_file():
        raise HivisError(f"{path}: wanted a drafter's config, got no such file")
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise HivisError(f"{path}: wanted JSON, got {error}") from None
    if not isinstance(raw, dict):
        raise HivisError(f"{path}: wanted a JSON object, got {type(raw).__name__}")
    return raw


def parse(raw: Mapping[str, Any], path: Path, kind: type[Config]) -> Config:
    """What the config ``raw`` at ``path`` says; HivisError if it is not one of this kind."""
    if raw.get("type") != kind.KIND:
        raise HivisError(f"{path}: type: wanted {kind.KIND!r}, got {raw.get('type')!r}")
    entries = {entry.name: entry for entry in fields(kind)}
    unknown = sorted(raw.keys() - entries.keys())
    if unknown:
        raise HivisError(f"{path}: wanted only known entries, got {some(unknown)} too")
    needed = {name for name, entry in entries.items() if entry.default is MISSING}
    if needed - raw.keys():
        raise HivisError(f"{path}: wanted {some(sorted(needed - raw.keys()))}, got no such entry")
    try:
        return kind(**raw)
    except HivisError as error:
        raise HivisError(f"{path}: {error}") from None


def some(names: list[str]) -> str:
    """The first few of a list, for a message of one line."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def random_tensors(config: LayerConfig, seed: int, scale: float = 0.02) -> dict[str, Tensor]:
    """Normal weights, unit norm gains, zero biases: a drafter before training.

    ``img_fc`` starts as ``[I | 0]`` (ViSpec): at first the global feature changes nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in config.shapes().items():
        if name.endswith("layernorm.weight"):
            tensors[name] = torch.ones(shape)
        elif name.endswith(".bias"):
            tensors[name] = torch.zeros(shape)
        elif name == "img_fc.weight":
            tensors[name] = torch.eye(*shape)
        elif name == "imadpt.q":
            tensors[name] = torch.randn(shape, generator=generator) * config.head_dim**-0.5
        else:
            tensors[name] = torch.randn(shape, generator=generator) * scale
    return tensors
