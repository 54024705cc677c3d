"""The ops against what torch offers for the same work, and against the floor of the machine.

    python bench/kernels.py [--quick] [--json PATH] [--only tree_attention] [--threads 1]

One line per case: median, throughput, the floor, and how many times faster than the fastest peer of
the same run. The floor is the time of copying as many bytes as the op has to move (in caches, where
they fit). Where arithmetic is what bounds the op, its rate stands next to that of a square matrix
product in the same dtype. The last line is one JSON document.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts a script's own folder first on the path, where kernels.py would pass for the
    # package of that name that transformers looks for.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.machine import commit, device_name, set_up, versions
from bench.report import check_writable
from bench.timing import Call, time_together
from hivis import ops
from hivis.errors import run_cli
from hivis.tree import ancestor_words

SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Case:
    """One line of the table: our call, peers that do the same, and what no call can do without."""

    label: str
    dtype: torch.dtype
    ours: Call
    peers: dict[str, Call]
    bytes: int
    flops: int = 0


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


@dataclass(frozen=True)
class Setting:
    device: torch.device
    quick: bool
    dtypes: list[torch.dtype] = field(default_factory=lambda: [torch.float32, torch.bfloat16])


CASES: dict[str, Callable[[Setting], Iterator[Case]]] = {}


def bench(cases: Callable[[Setting], Iterator[Case]]) -> Callable[[Setting], Iterator[Case]]:
    """Registers the cases of the op that the function is named after."""
    CASES[cases.__name__] = cases
    return cases


def random_parents(nodes: int) -> Tensor:
    """[1, N] i32: every node's parent is any earlier node."""
    order = torch.Generator().manual_seed(0)
    parents = [-1] + [int(torch.randint(0, node, (), generator=order)) for node in range(1, nodes)]
    return torch.tensor([parents], dtype=torch.int32)


@bench
def tree_attention(setting: Setting) -> Iterator[Case]:
    """Peer: scaled_dot_product_attention with a dense additive mask, made beforehand, and grouped
    heads by enable_gqa (repeating the heads of K and V in each call is always slower)."""
    shapes = [(4, 4, 64), (28, 4, 128)] + ([] if setting.quick else [(8, 8, 128)])
    lengths = [256, 2048] if setting.quick else [256, 2048, 8192]
    for dtype in setting.dtypes:
        for heads, kv_heads, dim in shapes:
            for length in lengths:
                for nodes in (1, 16, 60):
                    yield attention_case(setting, dtype, heads, kv_heads, dim, length, nodes)


def attention_case(
    setting: Setting, dtype: torch.dtype, heads: int, kv_heads: int, dim: int, length: int,
    nodes: int,
) -> Case:  # fmt: skip
    rows, scale = length + nodes, dim**-0.5
    q = torch.randn(1, nodes, heads, dim, device=setting.device).to(dtype)
    k, v = torch.randn(2, 1, kv_heads, rows, dim, device=setting.device).to(dtype)
    kv_len = torch.tensor([length], dtype=torch.int32, device=setting.device)
    ancestors = ancestor_words(random_parents(nodes)).to(setting.device)
    index = torch.arange(nodes, device=setting.device)
    seen = ((ancestors[0][:, index // 64] >> (index % 64)) & 1).bool()
    mask = torch.zeros(1, 1, nodes, rows, dtype=dtype, device=setting.device)
    mask[..., length:].masked_fill_(~seen, -torch.inf)
    q_heads = q.transpose(1, 2)

    def sdpa() -> Tensor:
        return F.scaled_dot_product_attention(
            q_heads, k, v, attn_mask=mask, scale=scale, enable_gqa=heads != kv_heads
        )

    return Case(
        f"{SHORT[dtype]} N={nodes:<2} S={length:<4} H={heads}/{kv_heads} D={dim}",
        dtype,
        lambda: ops.tree_attention(q, k, v, kv_len, ancestors, scale),
        {"sdpa": sdpa},
        (k.numel() + v.numel() + 2 * q.numel()) * q.element_size(),
        4 * nodes * heads * rows * dim,
    )


@bench
def kv_compact_(setting: Setting) -> Iterator[Case]:
    """Peer: index_select of the accepted rows of all layers, then copy_ to their place."""
    slabs = [(16, 4, 64), (28, 4, 128)] + ([] if setting.quick else [(32, 32, 128)])
    for dtype in setting.dtypes:
        for layers, heads, dim in slabs:
            for accepted in ([0, 3, 7, 12], [0, 1, 2, 9, 14, 20]):
                yield compact_case(setting, dtype, layers, heads, dim, accepted)


def compact_case(
    setting: Setting, dtype: torch.dtype, layers: int, heads: int, dim: int, accepted: list[int]
) -> Case:
    first, count = 300, len(accepted)
    kv = torch.randn(layers, 2, 1, heads, first + 64, dim, device=setting.device).to(dtype)
    kv_len = torch.tensor([first], dtype=torch.int32, device=setting.device)
    path = torch.tensor([accepted], dtype=torch.int32, device=setting.device)
    path_len = torch.tensor([count], dtype=torch.int32, device=setting.device)
    rows = first + path[0].long()

    def ours() -> None:
        ops.kv_compact_(kv, kv_len, path, path_len)
        kv_len.fill_(first)

    def gather_copy() -> None:
        kv[:, :, :, :, first : first + count].copy_(kv.index_select(4, rows))
        kv_len.add_(path_len)
        kv_len.fill_(first)

    moved = sum(node != i for i, node in enumerate(accepted))
    return Case(
        f"{SHORT[dtype]} L={layers} Hkv={heads:<2} D={dim:<3} path={count} moved={moved}",
        dtype,
        ours,
        {"gather_copy": gather_copy},
        2 * layers * 2 * heads * moved * dim * kv.element_size(),
    )


@bench
def tree_accept(setting: Setting) -> Iterator[Case]:
    """A walk of five nodes. Peers do only the draws, for all nodes at once and without the walk:
    argmax at temperature 0, else softmax and multinomial."""
    for dtype in setting.dtypes:
        for vocab in (2048, 32000):
            for temperature in (0.0, 1.0):
                yield accept_case(setting, dtype, vocab, temperature, nodes=16)


def accept_case(
    setting: Setting, dtype: torch.dtype, vocab: int, temperature: float, nodes: int
) -> Case:
    on = {"device": setting.device}
    logits = (torch.randn(1, nodes, vocab, **on) * 3).to(dtype)
    tokens = torch.arange(nodes, **on).unsqueeze(0)
    parents = (torch.arange(nodes, dtype=torch.int32, **on) - 1).unsqueeze(0)
    for node in range(4):
        logits[0, node, node + 1] = 60.0  # certain at either temperature
    zero, one = torch.zeros(1, dtype=torch.int64, **on), torch.ones(1, **on)
    arguments = (
        logits, tokens, parents, zero, zero, one * temperature, zero.int(), one, one * 0, 7,
    )  # fmt: skip

    def draw() -> Tensor:
        if temperature == 0:
            return logits.argmax(-1)
        return (logits[0].float() / temperature).softmax(-1).multinomial(1)

    return Case(
        f"{SHORT[dtype]} N={nodes} V={vocab:<5} T={temperature:g} walk=5",
        dtype,
        lambda: ops.tree_accept(*arguments),
        {"argmax" if temperature == 0 else "softmax_multinomial": draw},
        5 * vocab * logits.element_size(),
    )


def product_rate(setting: Setting, dtype: torch.dtype) -> float:
    """GFLOP/s of a square matrix product."""
    size = 512 if setting.device.type == "cpu" else 4096
    a, b = torch.randn(2, size, size, device=setting.device).to(dtype)
    return 2 * size**3 / time_together({"mm": lambda: a @ b}, setting.device)["mm"] / 1e3


def run(op: str, case: Case, setting: Setting, rate: float) -> Result:
    half = torch.empty(2, max(case.bytes // 2, 1), dtype=torch.uint8, device=setting.device)
    copy = {"copy": lambda: half[0].copy_(half[1])}
    seconds = 0.15 if setting.quick else 0.4
    times = time_together({"ours": case.ours} | case.peers | copy, setting.device, seconds)
    ours, peers = times["ours"], {name: times[name] for name in case.peers}
    return Result(
        op, case.label, ours, peers, times["copy"], case.bytes / ours / 1e3,
        case.flops / ours / 1e3, rate, min(peers.values()) / ours,
    )  # fmt: skip


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter cases")
    parser.add_argument("--json", type=Path, help="also write the JSON document to this file")
    parser.add_argument("--only", choices=CASES, help="one op")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    check_writable(arguments.json, "--json")
    set_up(arguments.device, arguments.threads)
    torch.manual_seed(0)
    setting = Setting(torch.device(arguments.device), arguments.quick)
    device, build = device_name(arguments.device), ops.build_info()
    print(f"{device} | {versions()} | commit {commit()} | {build['compiler']} {build['cpu_flags']}")

    results: list[Result] = []
    means: dict[str, float] = {}
    with torch.inference_mode():
        rates = {dtype: product_rate(setting, dtype) for dtype in setting.dtypes}
        for op in [arguments.only] if arguments.only else CASES:
            for case in CASES[op](setting):
                results.append(run(op, case, setting, rates[case.dtype]))
                print(line(results[-1]), flush=True)
            ratios = [result.ratio for result in results if result.op == op]
            means[op] = geometric_mean(ratios)
            print(f"{op}: {means[op]:.2f}x in the geometric mean, {min(ratios):.2f}x at worst")
    document = json.dumps(
        {
            "device": device,
            "versions": versions(),
            "commit": commit(),
            "build": build,
            "geometric_means": means,
            "results": [asdict(result) for result in results],
        }
    )
    if arguments.json:
        arguments.json.write_text(document + "\n")
    print(document)


if __name__ == "__main__":
    run_cli(main)
