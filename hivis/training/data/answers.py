"""The target's own answers to a batch of prompts, and what it thought on the way, as samples.

A drafter has to guess what the target says, so it learns from the target's answers and not from
those of a data set. A batch is answered with ``generate`` and read once more in one teacher-forced
pass for the hidden states. The model comes in as an object: nothing here imports transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from hivis.core.handoff import DrafterPrompt
from hivis.core.target import Inputs
from hivis.drafters.vispec import image_spans
from hivis.errors import HivisError
from hivis.training.data.samples import Columns, Sample

if TYPE_CHECKING:
    from hivis.models.families.base import Family

P = TypeVar("P")


@dataclass(frozen=True)
class Answerer(Generic[P]):
    """A target that answers prompts of any kind P.

    Attributes:
        model: a Hugging Face VLM: ``generate``, ``model`` (the stack without the head) and
            ``generation_config``.
        family: how its parts are found; it must tell visual rows by their token ids.
        prepare: makes a prompt the model's inputs; HivisError if that cannot be done.
        conversation: what the prompts of one conversation have in common, a number.
        look: what makes ``seen`` of a prompt's features, if not the target's own vision tower: a
            draft model that has a tower of its own is trained on what that one sees.
    """

    model: Any
    family: Family
    prepare: Callable[[P], Inputs]
    conversation: Callable[[P], int]
    look: Callable[[Mapping[str, Tensor]], Tensor | None] | None = None

    @property
    def max_positions(self) -> int:
        return self.family.language_model(self.model).config.max_position_embeddings

    def seen(self, features: Mapping[str, Tensor]) -> Tensor | None:
        """``[p, r, Ev]``: what the vision tower makes of a prompt's images."""
        return self.family.look(self.model, features) if self.look is None else self.look(features)

    def placeholders(self) -> Tensor:
        """``[V]`` bool: the ids that stand for visual rows."""
        table = self.model.get_input_embeddings().weight
        ids = torch.arange(table.shape[0], device=table.device)
        return ~self.family.text_rows(self.model, ids.unsqueeze(0))


#: Plain decoding, whatever the model's generation config asks for.
_GREEDY = {"do_sample": False, "repetition_penalty": 1.0, "num_beams": 1}
_SAMPLED = {
    "do_sample": True,
    "repetition_penalty": 1.0,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
}


@torch.inference_mode()
def answer(
    answerer: Answerer[Any],
    prompts: Sequence[Inputs],
    conversations: Sequence[int],
    columns: Columns,
    max_new_tokens: int,
    greedy: bool,
) -> list[Sample]:
    """One sample per prompt, on the host; ``conversations`` says which each belongs to.

    The answers are greedy, or drawn at temperature 1 from torch's global generator.
    """
    model, family = answerer.model, answerer.family
    texts = [prompt.tokens[0] for prompt in prompts]
    features = _joined_features(prompts)
    placeholders = answerer.placeholders()
    padding = int((~placeholders).int().argmax())
    tokens, mask = _padded(texts, padding, left=True)
    # An answer could hold an image's placeholder, for which there would be no image.
    barred = placeholders.nonzero().flatten().tolist()
    out = model.generate(
        input_ids=tokens,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        pad_token_id=padding,
        suppress_tokens=barred or None,
        **(_GREEDY if greedy else _SAMPLED),
        **features,
        **family.token_features(model, tokens),
    )
    eos = _eos_ids(model)
    full = [
        torch.cat([text, _cut(row, eos)])
        for text, row in zip(texts, out[:, tokens.shape[1] :], strict=True)
    ]
    hidden, embeddings = _read(answerer, full, features, padding)
    samples = []
    for i, (prompt, tokens) in enumerate(zip(prompts, full, strict=True)):
        said = torch.arange(len(tokens), device=tokens.device) >= prompt.tokens.shape[1]
        visual = ~said
        visual[~said] = ~family.text_rows(model, prompt.tokens)
        rows = DrafterPrompt(
            embeddings[i : i + 1, : len(tokens)],
            hidden[i : i + 1, : len(tokens)],
            prompt.tokens.shape[1],
            tokens.unsqueeze(0),
            visual.unsqueeze(0),
            prompt.features,
            answerer.seen(prompt.features) if columns.seen else None,
            family.spans(model, prompt.tokens, prompt.features),
        )
        is_answer = said & ~torch.isin(tokens, eos)
        samples.append(_sample(rows, visual, is_answer, columns, greedy, conversations[i]))
    return samples


def _sample(
    rows: DrafterPrompt,
    visual: Tensor,
    is_answer: Tensor,
    columns: Columns,
    greedy: bool,
    conversation: int,
) -> Sample:
    """Of all rows of a prompt and its answer, what ``columns`` keep."""
    assert rows.tokens is not None
    spans = torch.tensor(image_spans(rows), dtype=torch.int64).view(-1, 2)
    if columns.seen and len(spans) != (0 if rows.seen is None else len(rows.seen)):
        got = "none" if rows.seen is None else len(rows.seen)
        raise HivisError(f"seen: wanted one entry for each of {len(spans)} images, got {got}")
    kept = columns.keeps(visual, spans)
    images = rows.embeddings[0, visual].cpu() if columns.images and len(spans) else None
    return Sample(
        tokens=rows.tokens[0].cpu(),
        visual=visual.cpu(),
        answer=is_answer.cpu(),
        spans=spans,
        greedy=greedy,
        conversation=conversation,
        kept=kept.cpu(),
        hidden=rows.hidden[0, kept].cpu(),
        images=images,
        seen=None if rows.seen is None else rows.seen.cpu(),
    )


def _read(
    answerer: Answerer[Any], texts: Sequence[Tensor], features: dict[str, Tensor], padding: int
) -> tuple[Tensor, Tensor]:
    """Hidden states after the final norm, and input embeddings, ``[B, n, E]`` each."""
    embedded: list[Tensor] = []

    def watch(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        embedded.append(kwargs["inputs_embeds"])

    tokens, mask = _padded(texts, padding, left=False)
    language_model = answerer.family.language_model(answerer.model)
    handle = language_model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        out = answerer.model.model(
            input_ids=tokens,
            attention_mask=mask,
            use_cache=False,
            **features,
            **answerer.family.token_features(answerer.model, tokens),
        )
    finally:
        handle.remove()
    return out.last_hidden_state, embedded[0]


def _padded(texts: Sequence[Tensor], padding: int, left: bool) -> tuple[Tensor, Tensor]:
    """``(tokens, mask)``, ``[B, n]`` each. Generation wants its padding on the left."""
    width = max(len(text) for text in texts)
    tokens = texts[0].new_full((len(texts), width), padding)
    mask = torch.zeros_like(tokens)
    for i, text in enumerate(texts):
        place = slice(width - len(text), width) if left else slice(0, len(text))
        tokens[i, place], mask[i, place] = text, 1
    return tokens, mask


def _joined_features(prompts: Sequence[Inputs]) -> dict[str, Tensor]:
    """The images of all prompts, in order; prompts without one add nothing.

    Where images have different numbers of tiles, zeros stand behind the fewer.
    """
    joined = {}
    for name in sorted({name for prompt in prompts for name in prompt.features}):
        parts = [p.features[name] for p in prompts if name in p.features]
        shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
        for i, part in enumerate(parts):
            wider = part.new_zeros(part.shape[:1] + tuple(shape[1:]))
            wider[tuple(slice(size) for size in part.shape)] = part
            parts[i] = wider
        joined[name] = torch.cat(parts)
    return joined


def _eos_ids(model: Any) -> Tensor:
    eos = model.generation_config.eos_token_id
    ids = [] if eos is None else list(eos) if isinstance(eos, (list, tuple)) else [eos]
    return torch.tensor(ids, dtype=torch.int64, device=model.device)


def _cut(answer: Tensor, eos: Tensor) -> Tensor:
    """The answer up to its first EOS, that one included."""
    ends = torch.isin(answer, eos).nonzero()
    return answer[: int(ends[0]) + 1] if len(ends) else answer
