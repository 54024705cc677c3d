"""The target's own answers to a batch of prompts, with its hidden states, as samples.

A drafter has to predict the target's output, so it learns from the target's answers and not from
those of a data set. A batch is answered with ``generate`` and then read once more, in one
teacher-forced pass, for the hidden states. The model is passed in: nothing here imports
transformers.
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
from hivis.models.eos import eos_of_model
from hivis.training.data.samples import Columns, Sample

if TYPE_CHECKING:
    from hivis.models.families.base import Family

P = TypeVar("P")


@dataclass(frozen=True)
class Answerer(Generic[P]):
    """A target that answers prompts of a type P.

    Attributes:
        model: a Hugging Face VLM with ``generate``, ``model`` (the stack without the head) and
            ``generation_config``.
        family: finds the parts of the model; it must tell visual rows by their token ids.
        prepare: turns a prompt into the model's inputs; raises HivisError if it cannot.
        conversation: the number that all prompts of one conversation share.
        look: computes ``seen`` from a prompt's features. By default the target's vision tower does;
            a draft model with its own tower is trained on the output of that one.
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
        """``[p, r, Ev]`` output of the vision tower for a prompt's images."""
        return self.family.look(self.model, features) if self.look is None else self.look(features)

    def placeholders(self) -> Tensor:
        """``[V]`` bool: the token ids that stand for visual rows."""
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
    """One sample per prompt, on the CPU.

    Args:
        conversations: of each prompt, the number of its conversation.
        greedy: whether to decode greedily; otherwise answers are drawn at temperature 1 with
            torch's global generator.
    """
    model, family = answerer.model, answerer.family
    asked = [prompt.tokens[0] for prompt in prompts]
    features = _joined_features(prompts)
    placeholders = answerer.placeholders()
    padding = int((~placeholders).int().argmax())
    tokens, mask = _padded(asked, padding, left=True)
    # Otherwise an answer could hold a placeholder for which there is no image.
    suppressed = placeholders.nonzero().flatten().tolist()
    out = model.generate(
        input_ids=tokens,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        pad_token_id=padding,
        suppress_tokens=suppressed or None,
        **(_GREEDY if greedy else _SAMPLED),
        **features,
        **family.token_features(model, tokens),
    )
    eos = torch.tensor(eos_of_model(model), dtype=torch.int64, device=model.device)
    full = [
        torch.cat([prompt, _until_eos(row, eos)])
        for prompt, row in zip(asked, out[:, tokens.shape[1] :], strict=True)
    ]
    hidden, embeddings = _forward(answerer, full, features, padding)
    samples = []
    for i, (prompt, tokens) in enumerate(zip(prompts, full, strict=True)):
        answered = torch.arange(len(tokens), device=tokens.device) >= prompt.length
        visual = ~answered
        visual[~answered] = ~family.text_rows(model, prompt.tokens)
        rows = DrafterPrompt(
            embeddings[i : i + 1, : len(tokens)],
            hidden[i : i + 1, : len(tokens)],
            prompt.length,
            tokens.unsqueeze(0),
            visual.unsqueeze(0),
            prompt.features,
            answerer.seen(prompt.features) if columns.seen else None,
            family.spans(model, prompt.tokens, prompt.features),
        )
        is_answer = answered & ~torch.isin(tokens, eos)
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
    """The sample of a prompt and its answer, with the ``columns`` only."""
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


def _forward(
    answerer: Answerer[Any], sequences: Sequence[Tensor], features: dict[str, Tensor], padding: int
) -> tuple[Tensor, Tensor]:
    """Hidden states after the final norm and input embeddings of one pass, ``[B, n, E]`` each."""
    embedded: list[Tensor] = []

    def keep_embeddings(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        embedded.append(kwargs["inputs_embeds"])

    tokens, mask = _padded(sequences, padding, left=False)
    language_model = answerer.family.language_model(answerer.model)
    handle = language_model.register_forward_pre_hook(keep_embeddings, with_kwargs=True)
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


def _padded(sequences: Sequence[Tensor], padding: int, left: bool) -> tuple[Tensor, Tensor]:
    """``(tokens, mask)``, ``[B, n]`` each. ``generate`` needs its padding on the left."""
    width = max(len(sequence) for sequence in sequences)
    tokens = sequences[0].new_full((len(sequences), width), padding)
    mask = torch.zeros_like(tokens)
    for i, sequence in enumerate(sequences):
        columns = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        tokens[i, columns], mask[i, columns] = sequence, 1
    return tokens, mask


def _joined_features(prompts: Sequence[Inputs]) -> dict[str, Tensor]:
    """The features of all prompts, concatenated in order; prompts without an image add nothing.

    Where images have different numbers of tiles, the shorter features are padded with zeros.
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


def _until_eos(answer: Tensor, eos: Tensor) -> Tensor:
    """The answer up to and including its first EOS."""
    ends = torch.isin(answer, eos).nonzero()
    return answer[: int(ends[0]) + 1] if len(ends) else answer
