"""``hivis info``: versions, devices, the features of this build, and the bundled models."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hivis.bundled import paths
from hivis.errors import HivisError

ABOUT = "show versions, devices, the features of this build, and the bundled models"
EXAMPLES = """examples:
  python -m hivis info
  python -m hivis info --json | jq .build"""
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
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def info(options: argparse.Namespace) -> None:
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
    try:
        from hivis import _C, ops
    except ImportError as error:
        raise HivisError(f"hivis._C: wanted the compiled extension, got: {error}") from error
    import torch

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
        "build": _C.build_info(),
        "ops": {kind: {"missing": names} if names else "all" for kind, names in missing.items()},
        "prefill": {"attention": prefill_attention()},
        "quantized drafters": {
            str(device): quantized.products(torch.device(device)) for device in ("cpu", chosen)
        },
        "other packages (not needed)": {name: _version(name) for name in OTHER_PACKAGES},
        "bundled models": {
            folder.name: _size(folder)
            for folder in (paths.TARGET, paths.HIVIS, paths.EAGLE, paths.VISPEC, paths.DRAFT_VLM)
        },
    }


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
