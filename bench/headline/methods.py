"""The rows of the headline table: a method generates an output and says how long it took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedModel

from bench.common.generation import TimedOutput, generate_with_transformers
from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs, Target
from hivis.drafters.registry import method_of
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.policies.cost import default_policy

PLAIN = "hivis, plain"
LOOKUP = "HF prompt lookup"


def row_name(title: str) -> str:
    """What the row of a drafting method is called, by the method's title."""
    return f"hivis + {title}"


HIVIS = row_name(method_of("hivis").title)


@dataclass(frozen=True)
class Method:
    """A row of a table.

    Attributes:
        run: takes a prompt and how to sample.
        warm_up_cycles: outputs are generated at every temperature, and not counted, until they
            have had this many cycles; at least one output is.
        sampled_only: whether the method is left out at temperature 0, where it would repeat
            another row.
    """

    name: str
    run: Callable[[Inputs, SamplingParams], TimedOutput]
    warm_up_cycles: int = 1
    sampled_only: bool = False


def hivis_method(
    name: str,
    target: Target,
    drafter: Drafter | None = None,
    make_policy: Callable[[], Policy] | None = None,
    warm_up_cycles: int = 1,
    sampled_only: bool = False,
) -> Method:
    """hivis itself, with a drafter or with plain decoding.

    Every temperature has a policy of its own, so that what one learns at a temperature does not
    influence another.
    """
    engines: dict[float, Engine] = {}

    def run(inputs: Inputs, params: SamplingParams) -> TimedOutput:
        if params.temperature not in engines:
            policy = default_policy() if make_policy is None else make_policy()
            engines[params.temperature] = Engine(target, drafter, policy)
        made = generate(engines[params.temperature], inputs, params)
        times = made.statistics
        return TimedOutput(made.tokens, times.first_token_ms, times.total_ms, made)

    return Method(name, run, warm_up_cycles, sampled_only)


def transformers_method(name: str, model: PreTrainedModel, **extra: object) -> Method:
    """``generate`` of transformers on its own SDPA attention; ``extra`` goes into its settings."""
    return Method(name, partial(generate_with_transformers, model, **extra))
