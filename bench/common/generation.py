"""One generated output with its times, and how transformers' ``generate`` is timed."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.engine.results import Generation

HUGGING_FACE = "HF generate"


@dataclass(frozen=True)
class TimedOutput:
    """The new tokens of a prompt, up to and with EOS.

    Attributes:
        first_token_ms: from the start to the first token.
        total_ms: from the start to the last token.
        generation: what hivis says of it; ``None`` if transformers generated it.
    """

    tokens: tuple[int, ...]
    first_token_ms: float
    total_ms: float
    generation: Generation | None = None


@dataclass
class _FirstTokenTimer(BaseStreamer):
    """Notes when ``generate`` hands out its first new token (its first call brings the prompt)."""

    calls: int = 0
    at: float = 0.0

    def put(self, value: torch.Tensor) -> None:
        self.calls += 1
        if self.calls == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        pass


def generate_with_transformers(
    model: PreTrainedModel, inputs: Inputs, params: SamplingParams, **extra: object
) -> TimedOutput:
    """Time ``model.generate``.

    Args:
        extra: fields of its ``GenerationConfig`` beside those that follow from ``params``.
    """
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
    first = _FirstTokenTimer()
    start = time.perf_counter()
    with torch.inference_mode():
        output = model.generate(
            input_ids=inputs.tokens,
            attention_mask=torch.ones_like(inputs.tokens),
            **inputs.features,
            generation_config=settings,
            streamer=first,
        )
    tokens = tuple(output[0, inputs.length :].tolist())
    end = time.perf_counter()
    return TimedOutput(tokens, (first.at - start) * 1e3, (end - start) * 1e3)
