"""The ops against what torch and others offer for the same work, and against the machine's floor.

    python -m bench.ops [--quick] [--json PATH] [--only tree_attention] [--threads 1]
    python -m bench.ops --device cuda [--quick] [--json PATH] [--only tree_attention]

One line per case: median, throughput, the floor, and how many times faster than peers of the same
run. On a CPU the floor is the time of copying as many bytes as the op has to move (in caches, where
they fit), and where arithmetic is what bounds the op, its rate stands next to that of a square
matrix product in the same dtype. On a GPU the bandwidth of a large copy and the rate of a large
product are measured first, and the floor is the longer of the two times that they need; calls are
timed inside CUDA graphs over buffers that exceed the L2 cache, and the shapes are those of real
models, with targets next to them. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import bench.ops.growth_cases  # noqa: F401  (registers its cases)
from bench.common.environment import commit, device_name, set_up, versions
from bench.common.timing import time_together
from bench.headline.tables import check_writable
from bench.ops.cpu_cases import CASES, Case, Setting
from bench.ops.cuda_cases import CUDA_CASES
from bench.ops.cuda_run import CudaResult, cuda_line, measure, run_case
from hivis import ops
from hivis.errors import HivisError, run_cli


@dataclass(frozen=True)
class Result:
    op: str
    label: str
    us: float
    peers_us: dict[str, float]
    floor_us: float
    gb_per_s: float
    gflop_per_s: float
    mm_gflop_per_s: float
    ratio: float


def product_rate(setting: Setting, dtype: torch.dtype) -> float:
    """GFLOP/s of a square matrix product."""
    size = 512
    a, b = torch.randn(2, size, size, device=setting.device).to(dtype)
    return 2 * size**3 / time_together({"mm": lambda: a @ b}, setting.device)["mm"] / 1e3


def run(op: str, case: Case, setting: Setting, rate: float) -> Result:
    half = torch.empty(2, max(case.bytes // 2, 1), dtype=torch.uint8, device=setting.device)
    calls = {"ours": case.ours[0]} | {name: peer[0] for name, peer in case.peers.items()}
    calls["copy"] = lambda: half[0].copy_(half[1])
    seconds = 0.15 if setting.quick else 0.4
    times = time_together(calls, setting.device, seconds)
    ours, peers = times["ours"], {name: times[name] for name in case.peers}
    return Result(
        op,
        case.label,
        ours,
        peers,
        times["copy"],
        case.bytes / ours / 1e3,
        case.flops / ours / 1e3,
        rate,
        min(peers.values()) / ours,
    )


def line(result: Result) -> str:
    fastest = min(result.peers_us, key=result.peers_us.__getitem__)
    share = result.gflop_per_s / result.mm_gflop_per_s
    rate = f"{result.gflop_per_s:6.1f} GFLOP/s ({share:4.2f}x mm) | " if share else ""
    return (
        f"{result.op} {result.label} | {result.us:8.1f} us | {result.gb_per_s:5.1f} GB/s | {rate}"
        f"floor {result.floor_us:8.1f} us ({result.floor_us / result.us:4.0%}) | "
        f"{result.ratio:5.2f}x {fastest}"
    )


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def close(op: str, results: Sequence[Result | CudaResult]) -> float | None:
    """Print the line below an op's cases; its mean ratio."""
    ratios = [result.ratio for result in results if result.op == op and result.ratio is not None]
    if not ratios:
        print(f"{op}: no peer to compare with")
        return None
    mean = geometric_mean(ratios)
    print(f"{op}: {mean:.2f}x in the geometric mean, {min(ratios):.2f}x at worst", flush=True)
    return mean


def run_cpu(setting: Setting, chosen: Sequence[str]) -> dict[str, Any]:
    """All cases of a CPU, as the part of the JSON document that is about figures."""
    results: list[Result] = []
    means: dict[str, float | None] = {}
    rates = {dtype: product_rate(setting, dtype) for dtype in setting.dtypes}
    for op in chosen:
        for case in CASES[op](setting):
            results.append(run(op, case, setting, rates[case.dtype]))
            print(line(results[-1]), flush=True)
        means[op] = close(op, results)
    return {"geometric_means": means, "results": [asdict(result) for result in results]}


def run_cuda(setting: Setting, chosen: Sequence[str]) -> dict[str, Any]:
    """All cases of a GPU, likewise; reasons why peers are missing are printed once each."""
    machine = measure(setting)
    for dtype, rate in machine.mm_gflop_per_s.items():
        print(f"measured: matrix product in {dtype} {rate / 1e3:.0f} TFLOP/s")
    print(
        f"measured: copy {machine.copy_gb_per_s:.0f} GB/s (read plus written); "
        f"L2 {machine.l2_bytes / 2**20:.0f} MiB",
        flush=True,
    )
    results: list[CudaResult] = []
    means: dict[str, float | None] = {}
    told: set[tuple[str, str]] = set()
    for op in chosen:
        for case in CUDA_CASES[op](setting):
            results.append(run_case(op, case, machine, 0.2 if setting.quick else 0.4))
            print(cuda_line(results[-1]), flush=True)
            for peer in results[-1].skipped.items():
                if peer not in told:
                    told.add(peer)
                    print(f"  without {peer[0]}: {peer[1]}", flush=True)
        means[op] = close(op, results)
    targets = [target for result in results for target in result.targets]
    print(f"targets: {sum(target['reached'] for target in targets)} of {len(targets)} reached")
    return {
        "machine": asdict(machine),
        "geometric_means": means,
        "results": [asdict(result) for result in results],
        "differing": {result.label: result.differing for result in results if result.differing},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter cases")
    parser.add_argument("--json", type=Path, help="also write the JSON document to this file")
    parser.add_argument("--only", choices=CASES, help="one op")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    check_writable(arguments.json, "--json")
    set_up(arguments.device, arguments.threads)
    torch.manual_seed(0)
    device, build = device_name(arguments.device), ops.build_info()
    print(f"{device} | {versions()} | commit {commit()} | {build['compiler']} {build['cpu_flags']}")

    chosen = [arguments.only] if arguments.only else list(CASES)
    where = torch.device(arguments.device)
    with torch.inference_mode():
        if where.type == "cuda":
            torch.cuda.set_device(where.index or 0)
            cache = torch.cuda.get_device_properties(where).L2_cache_size
            figures = run_cuda(Setting(where, arguments.quick, [torch.bfloat16], cache), chosen)
        else:
            figures = run_cpu(Setting(where, arguments.quick), chosen)
    about = {"device": device, "versions": versions(), "commit": commit(), "build": build}
    document = json.dumps(about | figures)
    if arguments.json:
        arguments.json.write_text(document + "\n")
    print(document)
    if figures.get("differing"):
        raise HivisError(f"peers: wanted results that agree with ours, got {figures['differing']}")


if __name__ == "__main__":
    run_cli(main)
