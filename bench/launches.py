"""How many operations a cycle launches on the device.

    python bench/launches.py [--layers 32] [--json PATH]

Counted with a dispatch mode on a CPU, which runs the same operations: by phase, every operation
that is not a view, in a plain step and in a cycle with each drafter. On a GPU each is one kernel
launch or a few. The model is random and narrow; only its number of layers matters. ``waits`` are
operations that make the host wait for a value, beside the one read of the accepted tokens that ends
a cycle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from bench.common.environment import commit
from bench.common.files import check_writable, write_json
from bench.common.options import add_json, add_tree, check_at_least_one
from bench.common.tables import new_table
from hivis.cli.parser import Parser
from hivis.core.clock import PhaseClock
from hivis.core.device import versions
from hivis.core.drafter import Drafter
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.core.tree_shape import TreeShape
from hivis.drafters.checkpoint import random_tensors
from hivis.drafters.registry import call, methods, title_of
from hivis.engine.engine import Engine
from hivis.engine.running_batch import RunningBatch
from hivis.errors import run_cli
from hivis.models.drafter_sizes import sizes_of
from hivis.models.families.llava import Llava
from hivis.models.target import HuggingFaceTarget
from hivis.policies.fixed import FixedPolicy

PHASES = ("draft", "verify", "accept", "compact", "commit", "read", "rest")
VOCAB, HIDDEN, SLOT = 97, 32, 96
#: Operations that change only the view of a tensor, or reserve memory.
FREE = ("empty", "detach", "alias", "lift", "_unsafe_view", "_reshape_alias")
WAITS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")


class OperationCounter(TorchDispatchMode):
    """Counts operations by phase."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "rest"
        self.operations: Counter[str] = Counter()
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        with self:  # a cast, for example, is a view or a copy, which its parts show
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        if name in WAITS:
            self.waits += 1
        elif not func.is_view and not name.startswith(FREE):
            self.operations[self.phase] += 1
        return func(*args, **kwargs)


class CountingClock(PhaseClock):
    """Tells an operation counter which phase the cycle is in."""

    def __init__(self, counted: OperationCounter) -> None:
        super().__init__(torch.device("cpu"))
        self._counted = counted

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._counted.phase = name
        yield
        self._counted.phase = "rest"


def target_of(layers: int) -> HuggingFaceTarget:
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            hidden_size=HIDDEN,
            intermediate_size=48,
            num_hidden_layers=layers,
            vocab_size=VOCAB,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
        ),
        image_token_index=SLOT,
    )
    return HuggingFaceTarget(LlavaForConditionalGeneration(config), Llava())


def drafters_for(target: HuggingFaceTarget) -> list[Drafter | None]:
    """None, for plain decoding, and one of each method that has drafters with random weights."""
    sizes = sizes_of(target.model.config)
    weights = partial(random_tensors, seed=1)
    references = [method.random for method in methods() if method.random is not None]
    return [None, *(call(each, sizes.layer, sizes.hiding, weights) for each in references)]


def count(
    target: HuggingFaceTarget, drafter: Drafter | None, policy: FixedPolicy, temperature: float
) -> dict[str, Any]:
    """Operations of one cycle by phase, after a first cycle that makes buffers and tables."""
    params = SamplingParams(temperature=temperature, max_new_tokens=200, eos_token_ids=())
    loop = RunningBatch(Engine(target, drafter, policy))
    with torch.inference_mode():
        loop.add(Inputs(torch.arange(3, 40).unsqueeze(0), {}), params, ())
        loop.cycle()
        counted = OperationCounter()
        loop.cycles.clock = CountingClock(counted)
        with counted:
            loop.cycle()
    found = counted.operations
    return {
        "loop": "plain" if drafter is None else title_of(drafter),
        "temperature": temperature,
        **{phase: found[phase] for phase in PHASES},
        "all": sum(found.values()),
        "waits": counted.waits,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(prog="bench/launches.py", description=__doc__)
    add = parser.add_argument
    add("--layers", type=int, default=32, help="of the target (default: 32, as LLaVA-1.5-7B has)")
    add_tree(add, TreeShape(60, 6, 10))
    add_json(add)
    options = parser.parse_args(arguments)
    check_at_least_one(options, "layers")
    check_writable(options.json, "--json")
    policy = FixedPolicy(options.nodes, options.depth, options.tree_top_k)
    target = target_of(options.layers)
    rows = [
        count(target, drafter, policy, temperature)
        for temperature in (0.0, 1.0)
        for drafter in drafters_for(target)
    ]
    console = Console()
    console.print(
        f"a target of {options.layers} layers, trees of {policy.nodes} nodes and depth "
        f"{policy.depth}, commit {commit()}, torch {versions()['torch']}"
    )
    table = new_table(("loop", "T"), (*PHASES, "all", "waits"))
    for row in rows:
        table.add_row(
            *(value if isinstance(value, str) else f"{value:g}" for value in row.values())
        )
    console.print(table)
    if options.json:
        write_json(options.json, {"commit": commit(), "versions": versions(), "rows": rows})


if __name__ == "__main__":
    run_cli(main)
