"""SamplingParams: the one definition of the distribution that is sampled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hivis.errors import HivisError


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn and when to stop.

    The candidates are restricted in Hugging Face's order: temperature, top-k, top-p, min-p.

    Attributes:
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_k: keep the k most probable tokens (ties with the last one stay); 0 keeps all.
        top_p: keep the smallest set of most probable tokens that holds this much probability.
        min_p: keep tokens at least this probable relative to the most probable one.
        seed: 64-bit seed of the shared noise. Same seed, prompt and weights: same text.
        max_new_tokens: the token limit.
        eos_token_ids: tokens that end the text (the last token emitted); ``None`` takes the
            model's own, ``()`` never stops early.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    max_new_tokens: int = 128
    eos_token_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p"):
            value = getattr(self, name)
            _check(_is_number(value), name, "a number", value)
        # The bounds keep float32, in which tokens are drawn, from overflowing or rounding to 0.
        _check(
            self.temperature == 0 or 1e-6 <= self.temperature <= 1e6,
            "temperature",
            "0 (greedy) or a number in [1e-6, 1e6]",
            self.temperature,
        )
        _check(
            _is_whole(self.top_k) and 0 <= self.top_k < 2**31,
            "top_k",
            "a whole number >= 0 (0: off)",
            self.top_k,
        )
        _check(1e-30 <= self.top_p <= 1, "top_p", "a number in [1e-30, 1]", self.top_p)
        _check(0 <= self.min_p <= 1, "min_p", "a number in [0, 1]", self.min_p)
        _check(
            _is_whole(self.seed) and -(2**63) <= self.seed < 2**63,
            "seed",
            "a signed 64-bit number",
            self.seed,
        )
        _check(
            _is_whole(self.max_new_tokens) and self.max_new_tokens >= 1,
            "max_new_tokens",
            "a whole number >= 1",
            self.max_new_tokens,
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check(ok: bool, name: str, wanted: str, got: object) -> None:
    if not ok:
        raise HivisError(f"{name}: wanted {wanted}, got {got!r}")


@dataclass(frozen=True)
class SamplingState:
    """The same on the device, one entry per sequence, as the ops take it.

    ``greedy`` is a host constant: at temperature 0 no noise has to be generated at all.
    """

    seed: Tensor  # [B] int64
    temperature: Tensor  # [B] float32
    top_k: Tensor  # [B] int32
    top_p: Tensor  # [B] float32
    min_p: Tensor  # [B] float32
    greedy: bool

    @classmethod
    def of(cls, params: SamplingParams, batch: int, device: torch.device | str) -> SamplingState:
        def full(value: float, dtype: torch.dtype) -> Tensor:
            return torch.full((batch,), value, dtype=dtype, device=device)

        return cls(
            seed=full(params.seed, torch.int64),
            temperature=full(params.temperature, torch.float32),
            top_k=full(params.top_k, torch.int32),
            top_p=full(params.top_p, torch.float32),
            min_p=full(params.min_p, torch.float32),
            greedy=params.temperature == 0,
        )
