"""The rows of the latency table: each method generates one text and says how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs, Target
from hivis.engine.engine import Engine
from hivis.engine.generate import Generation, generate
from hivis.policies.cost import default_policy

PLAIN = "hivis, plain"
HUGGING_FACE = "HF generate"
LOOKUP = "HF prompt lookup"
EAGLE = "hivis + EAGLE-2"
VISPEC = "hivis + ViSpec"
SPEC_LLAVA = "hivis + Spec-LLaVA"
HIVIS = "hivis + HiViS"


@dataclass(frozen=True)
class Run:
    """One text of one method: its new tokens, up to and with EOS, and the times in ms."""

    tokens: tuple[int, ...]
    first_token_ms: float
    total_ms: float
    generation: Generation | None = None


@dataclass(frozen=True)
class Method:
    """A row of a table.

    Attributes:
        run: takes a prompt and how to sample.
        warm_up_cycles: texts are generated at every temperature, and do not count, until they have
            had this many cycles; one text at least.
        sampled_only: whether it is left out at temperature 0, where it would be another row again.
    """

    name: str
    run: Callable[[Inputs, SamplingParams], Run]
    warm_up_cycles: int = 1
    sampled_only: bool = False


def hivis_method(
    name: str,
    target: Target,
    drafter: Drafter | None = None,
    policy: Callable[[], Policy] | None = None,
    warm_up_cycles: int = 1,
    sampled_only: bool = False,
) -> Method:
    """hivis itself, with a drafter or plainly.

    ``policy`` makes a policy. There is one for every temperature, so that what it learns at one
    does not pass into another.
    """
    engines: dict[float, Engine] = {}

    def run(inputs: Inputs, params: SamplingParams) -> Run:
        if params.temperature not in engines:
            chosen = default_policy() if policy is None else policy()
            engines[params.temperature] = Engine(target, drafter, chosen)
        made = generate(engines[params.temperature], inputs, params)
        times = made.statistics
        return Run(made.tokens, times.first_token_ms, times.total_ms, made)

    return Method(name, run, warm_up_cycles, sampled_only)


@dataclass
class _FirstToken(BaseStreamer):
    """Notes when ``generate`` hands out its first new tokens (its first call brings the prompt)."""

    calls: int = 0
    at: float = field(default=0.0)

    def put(self, value: torch.Tensor) -> None:
        self.calls += 1
        if self.calls == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        pass


def hugging_face_method(name: str, model: PreTrainedModel, **extra: object) -> Method:
    """``generate`` of transformers on its own SDPA attention; ``extra`` is of its configuration."""

    def run(inputs: Inputs, params: SamplingParams) -> Run:
        eos = model.generation_config.eos_token_id
        eos = eos if params.eos_token_ids is None else list(params.eos_token_ids)
        sampled = params.temperature > 0
        settings = GenerationConfig(
            max_new_tokens=params.max_new_tokens,
            do_sample=sampled,
            temperature=params.temperature if sampled else None,
            top_k=params.top_k if sampled else None,
            top_p=params.top_p if sampled else None,
            eos_token_id=eos or None,
            pad_token_id=model.generation_config.pad_token_id,
            bos_token_id=model.generation_config.bos_token_id,
            **extra,
        )
        torch.manual_seed(params.seed)
        first = _FirstToken()
        start = time.perf_counter()
        with torch.inference_mode():
            text = model.generate(
                input_ids=inputs.tokens,
                attention_mask=torch.ones_like(inputs.tokens),
                **inputs.features,
                generation_config=settings,
                streamer=first,
            )
        tokens = tuple(text[0, inputs.length :].tolist())
        end = time.perf_counter()
        return Run(tokens, (first.at - start) * 1e3, (end - start) * 1e3)

    return Method(name, run)
