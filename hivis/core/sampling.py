"""SamplingParams: the one definition of the distribution that is sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hivis.core.cache_entries import entry_of
from hivis.errors import HivisError


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn and when to stop.

    The candidates are restricted in Hugging Face's order: repetition penalty, temperature, top-k,
    top-p, min-p.

    Attributes:
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_k: keep the k most probable tokens (ties with the last one stay); 0 keeps all.
        top_p: keep the smallest set of most probable tokens that holds this much probability.
        min_p: keep tokens at least this probable relative to the most probable one.
        repetition_penalty: the logits of tokens that the prompt or the output holds already are
            divided by it where they are positive, and multiplied where not (CTRL, arXiv 1909.05858,
            section 4.1); 1 does nothing.
        seed: 64-bit seed of the shared noise. Same seed, prompt and weights: same output.
        max_new_tokens: the token limit.
        eos_token_ids: tokens that end the output (the last token emitted); ``None`` takes the
            model's own, ``()`` never stops early.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    max_new_tokens: int = 128
    eos_token_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            value = getattr(self, name)
            _check(is_number(value), name, "a number", value)
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
            "a whole number from 0 (off) to 2^31 - 1",
            self.top_k,
        )
        _check(1e-30 <= self.top_p <= 1, "top_p", "a number in [1e-30, 1]", self.top_p)
        _check(0 <= self.min_p <= 1, "min_p", "a number in [0, 1]", self.min_p)
        _check(
            1e-6 <= self.repetition_penalty <= 1e6,
            "repetition_penalty",
            "a number in [1e-6, 1e6] (1: off)",
            self.repetition_penalty,
        )
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


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check(ok: bool, name: str, wanted: str, got: object) -> None:
    if not ok:
        raise HivisError(f"{name}: wanted {wanted}, got {got!r}")


@dataclass(frozen=True)
class SamplingState:
    """The same on the device, one entry per sequence, as the ops take it.

    ``greedy`` is a host constant: at temperature 0 no noise has to be generated at all. So is
    whether there are penalties: without any, ``seen`` is not kept up to date.
    """

    seed: Tensor  # [B] int64
    temperature: Tensor  # [B] float32
    top_k: Tensor  # [B] int32
    top_p: Tensor  # [B] float32
    min_p: Tensor  # [B] float32
    greedy: bool
    penalty: Tensor | None = None  # [B] float32, of repetitions
    seen: Tensor | None = None  # [B, V] bool: the tokens of prompt and output; kept up to date

    @classmethod
    def of(cls, params: SamplingParams, batch: int, device: torch.device | str) -> SamplingState:
        """``batch`` sequences alike."""
        return cls.of_each([params] * batch, device)

    @classmethod
    def of_each(
        cls,
        params: Sequence[SamplingParams],
        device: torch.device | str,
        seen: Tensor | None = None,
    ) -> SamplingState:
        """One sequence for each of ``params``; ``seen`` is used if any of them has a penalty."""
        found = {} if seen is None else {"seen": seen}
        return cls.over(sampling_entries(params, device) | found, params)

    @classmethod
    def over(cls, entries: Mapping[str, Tensor], params: Sequence[SamplingParams]) -> SamplingState:
        """The state that lies in a cache's ``entries``: :func:`sampling_entries` of ``params``, and
        ``seen``."""
        penal = "seen" in entries and any(p.repetition_penalty != 1 for p in params)
        return cls(
            **{name: entries[name] for name in _ENTRIES if name != "penalty"},
            greedy=all(p.temperature == 0 for p in params),
            penalty=entries["penalty"] if penal else None,
            seen=entries["seen"] if penal else None,
        )

    def penalize(self, logits: Tensor, path: Tensor) -> Tensor:
        """``[B, N, V]`` logits after the repetition penalty, in float32 if there is one.

        Args:
            path: ``[B, N, M]`` int64, tokens between the sequence so far and the token that the
                logits of each node are for; in any order, and any of the sequence's in between.
        """
        if self.seen is None or self.penalty is None:
            return logits
        said = self.seen.unsqueeze(1).expand(-1, logits.shape[1], -1).scatter(2, path, True)
        # The same bits as transformers computes: each logit is multiplied or divided, in float32,
        # and a factor of 1 changes none. One of them lies in memory at a time, beside the result.
        penalty = self.penalty[:, None, None]
        negative = (logits < 0).logical_and_(said)
        result = torch.where(negative, penalty, 1.0).mul_(logits)
        others = said.logical_xor_(negative)
        del negative
        return result.div_(torch.where(others, penalty, 1.0))

    def mark_seen(self, tokens: Tensor) -> None:
        """Note ``[B, M]`` int64 tokens that joined the sequences; -1 (no token) counts as some."""
        if self.seen is not None:
            self.seen.scatter_(1, tokens.clamp(min=0), True)


#: The cache entries of the settings, and the field of :class:`SamplingParams` that each holds.
_ENTRIES = {
    "seed": "seed",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty": "repetition_penalty",
}


def sampling_entries(
    params: Sequence[SamplingParams], device: torch.device | str
) -> dict[str, Tensor]:
    """Every setting that the ops take, ``[B]`` each, on the device."""
    return {
        name: torch.tensor(
            [getattr(p, field) for p in params], dtype=entry_of(name).dtype, device=device
        )
        for name, field in _ENTRIES.items()
    }


def seen_tokens(tokens: Tensor, vocab: int) -> Tensor:
    """``[B, V]`` bool: which ids ``[B, P]`` int64 hold; placeholders beyond V do not count."""
    seen = torch.zeros(tokens.shape[0], vocab + 1, dtype=torch.bool, device=tokens.device)
    return seen.scatter_(1, tokens.clamp(max=vocab), True)[:, :vocab]
