"""Capture the target's own answers: tokens and last hidden states, visual rows removed.

A drafter has to guess what the target says, so it learns from the target's answers and not from
those of a data set. Some are decoded greedily and some sampled at temperature 1. Each batch is
generated with ``generate`` and read once more in one teacher-forced pass for the hidden states.
The model comes in as an object: nothing here imports transformers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hivis.drafters.base import PromptRows
from hivis.training.data import Sample, save_shard


class PromptInputs(Protocol):
    """One prompt as ``hivis.targets`` makes it: ``tokens`` ``[1, P]`` and the processor's rest."""

    @property
    def tokens(self) -> Tensor: ...

    @property
    def features(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class CaptureSettings:
    """What to capture.

    Attributes:
        rows: ``"text"`` drops every visual row before anything is saved; ``"all"`` keeps them,
            with the input embeddings that hold the projected picture.
        sampled: share of the batches that are sampled at temperature 1; the others are greedy.
        max_new_tokens: where an answer is cut off.
    """

    rows: PromptRows = "text"
    sampled: float = 0.5
    max_new_tokens: int = 160
    batch: int = 32
    seed: int = 0


def capture(
    model: Any, prompts: Iterable[PromptInputs], settings: CaptureSettings
) -> Iterator[Sample]:
    """Yield one sample per prompt.

    ``model`` is a ``LlavaForConditionalGeneration`` or anything shaped like it: ``generate``,
    ``model`` (the stack without the head) with a ``language_model`` that takes ``inputs_embeds``,
    ``config.image_token_id`` and ``generation_config``.
    """
    rng = random.Random(settings.seed)
    torch.manual_seed(settings.seed)
    chunk: list[PromptInputs] = []
    for prompt in prompts:
        chunk.append(prompt)
        if len(chunk) == settings.batch:
            yield from _capture_batch(model, chunk, rng.random() >= settings.sampled, settings)
            chunk = []
    if chunk:
        yield from _capture_batch(model, chunk, rng.random() >= settings.sampled, settings)


@torch.inference_mode()
def _capture_batch(
    model: Any, prompts: Sequence[PromptInputs], greedy: bool, settings: CaptureSettings
) -> list[Sample]:
    features = _joined_features(prompts)
    texts = [prompt.tokens[0] for prompt in prompts]
    tokens, mask = _padded(texts, left=True)
    chosen = {"do_sample": False} if greedy else _AS_THEY_ARE
    # A sampled answer could hold the picture's placeholder, for which there would be no picture.
    out = model.generate(
        input_ids=tokens, attention_mask=mask, max_new_tokens=settings.max_new_tokens,
        pad_token_id=0, suppress_tokens=[model.config.image_token_id], **chosen, **features,
    )  # fmt: skip
    eos = _eos_ids(model)
    answers = [_cut(row, eos) for row in out[:, tokens.shape[1] :]]
    full = [torch.cat([text, answer]) for text, answer in zip(texts, answers, strict=True)]
    hidden, embeddings = _read(model, full, features)
    samples = []
    for i, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        is_answer = torch.arange(len(full[i]), device=text.device) >= len(text)
        is_answer[len(text) :] &= ~torch.isin(answer, eos)
        keep = torch.ones_like(is_answer)
        if settings.rows == "text":
            keep = full[i] != model.config.image_token_id
        own = embeddings[i, : len(full[i])][keep] if settings.rows == "all" else None
        samples.append(
            Sample(
                tokens=full[i][keep].cpu(),
                hidden=hidden[i, : len(full[i])][keep].cpu(),
                answer=is_answer[keep].cpu(),
                greedy=greedy,
                embeddings=None if own is None else own.cpu(),
            )
        )
    return samples


#: Plain sampling from the target's whole distribution.
_AS_THEY_ARE = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


def _read(
    model: Any, texts: Sequence[Tensor], features: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Hidden states after the final norm, and input embeddings, ``[B, n, E]`` each."""
    seen: list[Tensor] = []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["inputs_embeds"])

    tokens, mask = _padded(texts, left=False)
    stack = model.model
    handle = stack.language_model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        out = stack(input_ids=tokens, attention_mask=mask, use_cache=False, **features)
    finally:
        handle.remove()
    return out.last_hidden_state, seen[0]


def _padded(texts: Sequence[Tensor], left: bool) -> tuple[Tensor, Tensor]:
    """``(tokens, mask)``, ``[B, n]`` each. Generation wants its padding on the left."""
    width = max(len(text) for text in texts)
    tokens = texts[0].new_zeros(len(texts), width)
    mask = torch.zeros_like(tokens)
    for i, text in enumerate(texts):
        place = slice(width - len(text), width) if left else slice(0, len(text))
        tokens[i, place], mask[i, place] = text, 1
    return tokens, mask


def _joined_features(prompts: Sequence[PromptInputs]) -> dict[str, Tensor]:
    """The pictures of all prompts, in order; prompts without one add nothing."""
    names = sorted({name for prompt in prompts for name in prompt.features})
    return {
        name: torch.cat([p.features[name] for p in prompts if name in p.features]) for name in names
    }


def _eos_ids(model: Any) -> Tensor:
    eos = model.generation_config.eos_token_id
    ids = [] if eos is None else list(eos) if isinstance(eos, (list, tuple)) else [eos]
    return torch.tensor(ids, dtype=torch.int64, device=model.device)


def _cut(answer: Tensor, eos: Tensor) -> Tensor:
    """The answer up to its first EOS, that one included."""
    ends = torch.isin(answer, eos).nonzero()
    return answer[: int(ends[0]) + 1] if len(ends) else answer


def write_capture(
    directory: Path, samples: Iterable[Sample], rows: PromptRows, shard: int = 1000
) -> int:
    """Write samples as shards of ``shard`` each; returns how many samples there were."""
    held: list[Sample] = []
    written = count = 0
    for sample in samples:
        held.append(sample)
        count += 1
        if len(held) == shard:
            save_shard(directory / f"shard-{written:05d}.safetensors", held, rows)
            held, written = [], written + 1
    if held:
        save_shard(directory / f"shard-{written:05d}.safetensors", held, rows)
    return count
