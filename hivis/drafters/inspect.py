"""What a drafter's checkpoint is, found out once: where it lies, its config, its tensors' names."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hivis.core.hub import MODEL_FILES, resolve
from hivis.drafters.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_json, read_safetensors
from hivis.drafters.checkpoint import tensor_names as names_in
from hivis.errors import HivisError, first_line

PICKLE_FILE = "pytorch_model.bin"
INDEX_FILE = WEIGHTS_FILE + ".index.json"


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint that something drafts with. What is read of its files is read once.

    Attributes:
        source: the folder or hub name as it was given.
        folder: where its files lie.
        config_file: its ``config.json``, or the one that stands in for it.
        config: what that says.
    """

    source: str
    folder: Path
    config_file: Path
    config: Mapping[str, Any]

    @property
    def declared(self) -> str | None:
        """The ``type`` that every config written by hivis has; published ones have none."""
        kind = self.config.get("type")
        return kind if isinstance(kind, str) else None

    @property
    def is_whole_model(self) -> bool:
        """Whether it is a Hugging Face model, and not only the layer of a drafter."""
        if "type" in self.config or "model_type" not in self.config:
            return False
        if (self.folder / WEIGHTS_FILE).is_file():
            # Published drafters have such a config too, but their one layer is not in a "model".
            layers = ("fc.", "layers.", "midlayer.")
            return not any(name.startswith(layers) for name in self.tensor_names)
        pickled = (self.folder / PICKLE_FILE).is_file()
        return not pickled or (self.folder / INDEX_FILE).is_file()

    @cached_property
    def tensor_names(self) -> frozenset[str]:
        """The names of its tensors. Of safetensors only the header is read."""
        path = self.folder / WEIGHTS_FILE
        return frozenset(names_in(path) if path.is_file() else self.tensors)

    @cached_property
    def weights_file(self) -> Path:
        """The file with its tensors.

        Raises:
            HivisError: there is none.
        """
        for name in (WEIGHTS_FILE, PICKLE_FILE):
            if (self.folder / name).is_file():
                return self.folder / name
        raise HivisError(f"{self.folder}: wanted {WEIGHTS_FILE} or {PICKLE_FILE}, got neither")

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors, on the CPU and in the dtype that they were saved in.

        Raises:
            HivisError: no file with weights, one that is not whole, or a pickle of anything but
                tensors by name.
        """
        path = self.weights_file
        return read_safetensors(path) if path.name == WEIGHTS_FILE else _read_pickle(path)


def inspect(
    path: str | Path, revision: str | None = None, config: str | Path | None = None
) -> CheckpointInfo:
    """Find a drafter's checkpoint and read its config.

    Args:
        path: a folder, or a name on the Hugging Face hub, which is asked only where there is no
            such folder, and of which only what a drafter needs is fetched.
        revision: of a hub name: a branch, tag or commit.
        config: the ``config.json`` of a checkpoint that comes without one.

    Raises:
        HivisError: nothing there, no readable config, or ``config`` for a whole model, which is
            loaded with the one that it has.
    """
    wanted = [(CONFIG_FILE, WEIGHTS_FILE), (CONFIG_FILE, PICKLE_FILE)]
    folder = resolve(path, "drafter", wanted, revision)
    file = folder / CONFIG_FILE if config is None else Path(config)
    info = CheckpointInfo(str(path), folder, file, read_json(file))
    if not info.is_whole_model:
        return info
    if config is not None:
        raise HivisError(
            "drafter_config: wanted it for a drafter that is one layer, got it for "
            f"{path}, a whole model or a folder without weights"
        )
    # Of one on the hub also its tokenizer and all parts of its weights.
    return replace(info, folder=resolve(path, "drafter", [MODEL_FILES], revision))


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        # weights_only: tensors and plain containers are read; code in a pickle is never run.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message is long, advice on how to run the code included.
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "no tensors")
        raise HivisError(
            f"{path}: wanted a pickle of tensors alone, got {reason.strip()[:120]}"
        ) from None
    except Exception as error:  # torch, zipfile and pickle each raise their own kinds
        raise HivisError(
            f"{path}: wanted a whole file of tensors, got {first_line(error)}"
        ) from None
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise HivisError(f"{path}: wanted tensors by name, got {type(loaded).__name__} of others")
    return dict(loaded)
