"""The machine: what it is called, what it can do, and where a model best runs on it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from hivis import ops
from hivis.errors import HivisError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device_name(device: str | torch.device) -> str:
    """The processor or the GPU, in words."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def has_fast_bfloat16(device: str | torch.device) -> bool:
    """Whether bfloat16 products run on units made for them; elsewhere float32 is faster."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags


def choose_device(device: str | torch.device = "auto", name: str = "device") -> torch.device:
    """``auto``: the GPU, if torch sees one and this build has kernels for it, else the CPU.

    Raises:
        HivisError: a device that this machine or this build cannot serve.
    """
    if device == "auto":
        usable = torch.cuda.is_available() and not ops.missing_on("cuda")
        return torch.device("cuda" if usable else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise HivisError(f"{name}: wanted auto, cpu or cuda, got {device}") from None
    there = chosen.type == "cpu" or (
        chosen.type == "cuda"
        and torch.cuda.is_available()
        and (chosen.index is None or chosen.index < torch.cuda.device_count())
    )
    if not there:
        raise HivisError(f"{name}: wanted cpu, or cuda where torch sees a GPU, got {device}")
    missing = ops.missing_on(chosen)
    if missing:
        raise HivisError(
            f"{name}: wanted one that this build has all ops for, got {device} "
            f"(without {', '.join(missing)})"
        )
    return chosen


def choose_dtype(
    dtype: str | torch.dtype, device: torch.device, name: str = "dtype"
) -> torch.dtype:
    """``auto``: bfloat16 where the device has units for it, else float32."""
    if dtype == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES.values():
        raise HivisError(f"{name}: wanted auto, {', '.join(DTYPES)}, got {dtype}")
    assert chosen is not None
    return chosen


def versions() -> dict[str, str]:
    """Versions of what outputs and times depend on."""
    found = {"python": platform.python_version()}
    for package in ("hivis", "torch", "transformers", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found
