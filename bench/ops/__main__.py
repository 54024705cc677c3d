"""The ops against what torch and others offer for the same work, and against the machine's floor.

    python -m bench.ops [--quick] [--json PATH] [--only tree_attention] [--threads 1]
    python -m bench.ops --device cuda [--quick] [--json PATH] [--only tree_attention]

One line per case: median, throughput, the floor, and how many times faster than peers of the same
run. On a CPU the floor is the time of copying as many bytes as the op has to move (in caches, where
they fit); where the op is bound by arithmetic, its rate is shown next to that of a square matrix
product in the same dtype. On a GPU the bandwidth of a large copy and the rate of a large product
are measured first, and the floor is the longer of the two times that they need; calls are timed
inside CUDA graphs over buffers that exceed the L2 cache, and the sizes are those of real models,
with goals next to them. The last line is one JSON document.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

# The modules of cases fill the registries when they are imported.
from bench.common.ceilings import measure_ceilings, product_gflop_per_s
from bench.common.environment import commit, set_up
from bench.common.files import check_writable, write_json
from bench.common.options import add_json, add_threads
from bench.common.timing import time_together
from bench.ops import cpu_cases, cuda_cases, growth_cases  # noqa: F401
from bench.ops.cases import CPU_CASES, CUDA_CASES, OpCase, Setting
from bench.ops.cuda_run import CudaResult, cuda_line, run_case
from hivis import ops
from hivis.cli.parser import Parser
from hivis.core.device import device_name, versions
from hivis.errors import HivisError, run_cli


@dataclass(frozen=True)
class CpuResult:
    """One line of the table; ``us`` and the like are microseconds per call."""

    op: str
    label: str
    us: float
    peers_us: dict[str, float]
    floor_us: float
    gb_per_s: float
    gflop_per_s: float
    mm_gflop_per_s: float
    ratio: float


def run_cpu_case(op: str, case: OpCase, setting: Setting, rate: float) -> CpuResult:
    """Time ours, its peers and the copy in turn; ``rate`` is that of a product, in GFLOP/s."""
    half = torch.empty(2, max(case.bytes // 2, 1), dtype=torch.uint8, device=setting.device)
    calls = {"ours": case.ours[0]} | {name: peer[0] for name, peer in case.peers.items()}
    calls["copy"] = lambda: half[0].copy_(half[1])
    seconds = 0.15 if setting.quick else 0.4
    times = time_together(calls, setting.device, seconds)
    ours, peers = times["ours"], {name: times[name] for name in case.peers}
    return CpuResult(
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


def cpu_line(result: CpuResult) -> str:
    """One line per case."""
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


def print_mean(op: str, results: Sequence[CpuResult | CudaResult]) -> float | None:
    """Print the line below an op's cases; returns the mean ratio, ``None`` without any peer."""
    ratios = [result.ratio for result in results if result.op == op and result.ratio is not None]
    if not ratios:
        print(f"{op}: no peer to compare with")
        return None
    mean = geometric_mean(ratios)
    print(f"{op}: {mean:.2f}x in the geometric mean, {min(ratios):.2f}x at worst", flush=True)
    return mean


def run_cpu(setting: Setting, chosen: Sequence[str]) -> dict[str, Any]:
    """Run all cases of a CPU; returns the figures of the JSON document."""
    results: list[CpuResult] = []
    means: dict[str, float | None] = {}
    rates = {dtype: product_gflop_per_s(setting.device, dtype) for dtype in setting.dtypes}
    for op in chosen:
        for case in CPU_CASES[op](setting):
            results.append(run_cpu_case(op, case, setting, rates[case.dtype]))
            print(cpu_line(results[-1]), flush=True)
        means[op] = print_mean(op, results)
    return {"geometric_means": means, "results": [asdict(result) for result in results]}


def run_cuda(setting: Setting, chosen: Sequence[str]) -> dict[str, Any]:
    """Likewise on a GPU; the reason why a peer is missing is printed once."""
    machine = measure_ceilings(setting.device, setting.dtypes, setting.l2_bytes)
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
        means[op] = print_mean(op, results)
    goals = [judged for result in results for judged in result.targets]
    print(f"goals: {sum(judged['reached'] for judged in goals)} of {len(goals)} reached")
    return {
        "machine": asdict(machine),
        "geometric_means": means,
        "results": [asdict(result) for result in results],
        "differing": {result.label: result.differing for result in results if result.differing},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m bench.ops", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer and shorter cases")
    add("--no-flex", action="store_true", help="leave out flex_attention, slow to compile")
    add("--only", choices=CPU_CASES, help="one op")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add_threads(add)
    add_json(add)
    options = parser.parse_args(arguments)
    check_writable(options.json, "--json")
    set_up(options.device, options.threads)
    torch.manual_seed(0)
    device, build = device_name(options.device), ops.build_info()
    about = {"device": device, "versions": versions(), "commit": commit(), "build": build}
    print(f"{device} | {versions()} | commit {commit()} | {build['compiler']} {build['cpu_flags']}")

    chosen = [options.only] if options.only else list(CPU_CASES)
    where = torch.device(options.device)
    with torch.inference_mode():
        if where.type == "cuda":
            torch.cuda.set_device(where.index or 0)
            cache = torch.cuda.get_device_properties(where).L2_cache_size
            figures = run_cuda(
                Setting(where, options.quick, [torch.bfloat16], cache, not options.no_flex), chosen
            )
        else:
            figures = run_cpu(Setting(where, options.quick), chosen)
    document = about | figures
    if options.json:
        write_json(options.json, document)
    print(json.dumps(document))
    if figures.get("differing"):
        raise HivisError(f"peers: wanted results that agree with ours, got {figures['differing']}")


if __name__ == "__main__":
    run_cli(main)
