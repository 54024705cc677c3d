"""``hivis info``: versions, devices, the features of this build; or what a checkpoint is."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hivis.bundled import paths
from hivis.drafters.registry import bundled_folder, methods, recognize
from hivis.errors import HivisError

ABOUT = "show versions, devices, the features of this build; or what a drafter's checkpoint is"
EXAMPLES = """examples:
  python -m hivis info
  python -m hivis info --json | jq .build
  python -m hivis info path/to/drafter"""
#: Entries of a drafter's config by which it fits a target or not.
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
#: Packages that other engines use. hivis needs none of them.
OTHER_PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "flash-attn",
    "flashinfer-python",
    "triton",
    "xformers",
)


def add_info(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=info)
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("checkpoint", nargs="?", help="folder or hub name of a drafter, to be described")
    add("--drafter-config", metavar="FILE", help="config.json of a checkpoint without one")
    add("--json", action="store_true", help="print one JSON object")


def info(options: argparse.Namespace) -> None:
    if options.checkpoint is not None:
        found = describe(options.checkpoint, options.drafter_config)
    elif options.drafter_config is not None:
        raise HivisError("--drafter-config: wanted a checkpoint that it belongs to, got none")
    else:
        found = collect()
    if options.json:
        print(json.dumps(found))
        return
    for heading, entries in found.items():
        print(heading)
        width = max(len(name) for name in entries)
        for name, value in entries.items():
            print(f"  {name:<{width}}  {_shown(value)}")


def collect() -> dict[str, dict[str, Any]]:
    """All entries, by heading."""
    import torch

    from hivis import ops
    from hivis.core.device import choose_device, choose_dtype, device_name, versions
    from hivis.drafters import quantized_linear as quantized
    from hivis.models.prefill_attention import prefill_attention

    devices: dict[str, Any] = {"cpu": device_name("cpu")}
    for index in range(torch.cuda.device_count()):
        devices[f"cuda:{index}"] = device_name(f"cuda:{index}")
    chosen = choose_device()
    devices["auto"] = f"{chosen}, {str(choose_dtype('auto', chosen)).removeprefix('torch.')}"
    missing = {kind: ops.missing_on(kind) for kind in ("cpu", "cuda")}
    return {
        "versions": versions(),
        "devices": devices,
        "build": ops.build_info(),
        "ops": {kind: {"missing": names} if names else "all" for kind, names in missing.items()},
        "prefill": {"attention": prefill_attention()},
        "quantized drafters": {
            str(device): quantized.products(torch.device(device)) for device in ("cpu", chosen)
        },
        "drafting methods": {method.name: method.summary for method in methods()},
        "other packages (not needed)": {name: _version(name) for name in OTHER_PACKAGES},
        "bundled models": {
            folder.name: _size(folder)
            for folder in (
                paths.TARGET,
                *(bundled_folder(each, paths.WEIGHTS) for each in methods()),
            )
            if folder is not None
        },
    }


def describe(path: str, config: str | None = None) -> dict[str, dict[str, Any]]:
    """What the drafter's checkpoint at ``path`` is, by heading.

    Raises:
        HivisError: nothing there, damaged, or of no known method.
    """
    from hivis.drafters.inspect import inspect
    from hivis.drafters.published import ignored_tensors

    found = inspect(path, config=config)
    method = recognize(found)
    published = found.declared is None and not found.is_whole_model
    checkpoint = {
        "folder": str(found.folder),
        "config": str(found.config_file),
        "method": f"{method.title} ({method.name})",
        "format": "as published by its authors" if published else "written by hivis",
    }
    if found.is_whole_model:
        checkpoint["format"] = f"Hugging Face model, {found.config['model_type']}"
        return {"checkpoint": checkpoint}
    checkpoint["tensors"] = str(len(found.tensor_names))
    checkpoint["ignored tensors"] = ", ".join(ignored_tensors(found) if published else []) or "none"
    sizes = {name: found.config[name] for name in SIZES if name in found.config}
    return {"checkpoint": checkpoint} | ({"sizes": sizes} if sizes else {})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _size(folder: Path) -> str | None:
    weights = folder / "model.safetensors"
    return f"{weights.stat().st_size / 1e6:.1f} MB" if weights.is_file() else None


def _shown(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(entry)}" for name, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "-"
    return str(value)
