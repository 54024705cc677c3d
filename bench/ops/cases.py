"""What a case of the op benchmark is, and the registries of all cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.common.goals import Goal
from bench.common.timing import Call

SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class OpCase:
    """One line of the table: our call, peers that do the same, and what no call can do without.

    Each call comes as a sequence: the same call on one set of buffers after another.

    Attributes:
        bytes: that a call has to read and write.
        flops: floating-point operations that it has to do.
        bounds: calls that do less than ours has to; shown, never counted as peers.
        outcomes: the result on the first set of buffers by name of a call, ours included, in one
            form that can be compared.
        reset: restores what the calls change of the buffers' state.
        skipped: peers that could not be run, and why.
        goals: about the figures of :func:`bench.ops.cuda_run.figures`.
    """

    label: str
    dtype: torch.dtype
    ours: Sequence[Call]
    peers: Mapping[str, Sequence[Call]]
    bytes: int
    flops: int = 0
    bounds: Mapping[str, Sequence[Call]] = field(default_factory=dict)
    outcomes: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    reset: Call | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    goals: Sequence[Goal] = ()


@dataclass(frozen=True)
class Setting:
    """Where cases run, and how many of them.

    Attributes:
        quick: whether to leave out some cases.
        l2_bytes: the cache that a GPU's buffers have to exceed; 0 for one set of buffers.
        flex: whether flex_attention is a peer, which takes seconds per case to compile.
    """

    device: torch.device
    quick: bool
    dtypes: list[torch.dtype] = field(default_factory=lambda: [torch.float32, torch.bfloat16])
    l2_bytes: int = 0
    flex: bool = True


#: What makes the cases of an op.
MakeCases = Callable[[Setting], Iterator[OpCase]]
#: By op.
CPU_CASES: dict[str, MakeCases] = {}
CUDA_CASES: dict[str, MakeCases] = {}


def on_cpu(make: MakeCases) -> MakeCases:
    """Registers the cases of the op that the function is named after."""
    CPU_CASES[make.__name__] = make
    return make


def on_cuda(make: MakeCases) -> MakeCases:
    """Likewise for a GPU."""
    CUDA_CASES[make.__name__] = make
    return make


def random_parents(nodes: int) -> Tensor:
    """[1, N] i32: every node's parent is any earlier node."""
    order = torch.Generator().manual_seed(0)
    parents = [-1] + [int(torch.randint(0, node, (), generator=order)) for node in range(1, nodes)]
    return torch.tensor([parents], dtype=torch.int32)
