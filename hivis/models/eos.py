"""The tokens that end a model's output: the one place where they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def eos_of_model(model: Any) -> tuple[int, ...]:
    """Of a loaded Hugging Face model, as its generation config says."""
    return _as_ids(getattr(model.generation_config, "eos_token_id", None))


def eos_of_files(folder: Path) -> tuple[int, ...]:
    """Of the model in ``folder``, from its configuration files."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        config: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        for entry in (config, config.get("text_config") or {}):
            if entry.get("eos_token_id") is not None:
                return _as_ids(entry["eos_token_id"])
    return ()


def _as_ids(eos: Any) -> tuple[int, ...]:
    """One id, several or none, as a tuple."""
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, (list, tuple)) else (int(eos),)
