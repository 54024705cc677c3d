"""A model with its drafter, ready for use: texts from prompts and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from hivis.drafters.base import Drafter
from hivis.errors import HivisError
from hivis.policy import Policy
from hivis.settings import resolve
from hivis.stream import TextGeneration, TextStream
from hivis.targets.base import Inputs, Target
from hivis.targets.generation import generation_settings
from hivis.targets.prompts import Picture, PromptProcessor
from hivis.targets.vocabulary import byte_tokens, special_tokens
from hivis.text import TextPieces

#: A question; the turns of a conversation, ``(role, text)`` each; or inputs that are made already.
Prompt = str | Sequence[tuple[str, str]] | Inputs
Pictures = Picture | Sequence[Picture]


class LoadedTarget(Target, Protocol):
    """A target around a Hugging Face model."""

    @property
    def model(self) -> Any: ...


class Streamer(Protocol):
    """What transformers' ``TextStreamer`` and its kin are: a receiver of tokens."""

    def put(self, value: Tensor) -> object:
        """Take token ids: first those of the prompt ``[1, P]``, then new ones ``[n]``."""
        ...

    def end(self) -> object:
        """No more will come."""
        ...


@dataclass
class Model:
    """A VLM, its processor and what drafts for it. See :func:`hivis.load` and :func:`hivis.wrap`.

    One text at a time: the next one ends a stream that is still being read. Texts are the same for
    any drafter and policy, or none (``docs/lossless.md``).
    """

    target: LoadedTarget
    processor: PromptProcessor
    drafter: Drafter | None
    policy: Policy

    def generate(
        self, prompt: Prompt, images: Pictures = (), *, streamer: Streamer | None = None,
        **settings: Any,
    ) -> TextGeneration:  # fmt: skip
        """The whole text that answers a prompt.

        Args:
            prompt: a question, which the model's chat template is put around, with the pictures
                before it unless it has slots for them; a conversation, as turns of
                ``("user" | "assistant", text)``; or inputs made by :attr:`processor`.
            images: paths or PIL images, one or several.
            streamer: gets the tokens as they are accepted, like that of transformers' ``generate``.
            settings: those of :meth:`stream`.

        Raises:
            HivisError: as :meth:`stream`, or the logits hold a NaN.
        """
        stream = self.stream(prompt, images, **settings)
        with closing(stream.chunks()) as chunks:
            try:
                if streamer is not None:
                    streamer.put(stream.inputs.tokens.cpu())
                for chunk in chunks:
                    if streamer is not None and chunk.tokens:
                        streamer.put(torch.tensor(chunk.tokens))
            finally:
                if streamer is not None:
                    streamer.end()
        return stream.result

    def stream(
        self, prompt: Prompt, images: Pictures = (), *, temperature: float | None = None,
        top_k: int | None = None, top_p: float | None = None, min_p: float | None = None,
        seed: int = 0, max_new_tokens: int | None = None, stop: str | Sequence[str] | None = None,
        traced: bool = False, **others: Any,
    ) -> TextStream:  # fmt: skip
        """The text that answers a prompt, piece by piece. ``prompt``, ``images``: :meth:`generate`.

        What is not given is as the model's own ``generation_config`` says, or greedy.

        Args:
            temperature: 0 is greedy.
            top_k: draw from the k most probable tokens; 0 from all.
            top_p: draw from the most probable tokens that hold this much probability.
            min_p: draw from tokens at least this probable relative to the most probable one.
            seed: of the noise; the same seed gives the same text.
            max_new_tokens: the limit; without one in the model's settings 512, or what fits.
            stop: strings before the first of which the text ends.
            traced: keep every cycle as it was, its tree and the way through it, in the statistics.
            others: further settings by their names in transformers' ``GenerationConfig``; also to
                overrule one of the model's that hivis refuses (``repetition_penalty=1.0``).

        Raises:
            HivisError: bad prompt, picture or setting; a setting that hivis cannot reproduce; or a
                text that would not fit the model's positions.
        """
        inputs = self.prepare(prompt, images)
        given = dict(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed,
            max_new_tokens=max_new_tokens, stop=stop, **others,
        )  # fmt: skip
        own = generation_settings(self.target.model)
        settings = resolve(own, given, inputs.length, self.target.max_positions)
        tokenizer = self.processor.processor.tokenizer
        pieces = TextPieces(
            self.processor.decode, byte_tokens(tokenizer), special_tokens(tokenizer), settings.stop
        )
        return TextStream(
            self.target, inputs, settings.params, self.drafter, self.policy, pieces, traced
        )

    def prepare(self, prompt: Prompt, images: Pictures = ()) -> Inputs:
        """The inputs of a prompt, token ids ``[1, P]`` and pixels, on the model's device."""
        pictures = several(images)
        if isinstance(prompt, Inputs):
            if pictures:
                raise HivisError(
                    f"images: wanted none with inputs made already, got {len(pictures)}"
                )
            return prompt
        if isinstance(prompt, str):
            return self.processor(prompt, pictures)
        if not isinstance(prompt, Sequence) or not all(
            isinstance(turn, (tuple, list)) and len(turn) == 2 and isinstance(turn[1], str)
            for turn in prompt
        ):
            raise HivisError(
                f"prompt: wanted a text, turns of (role, text) or inputs, got {prompt!r:.60}"
            )
        return self.processor.conversation(cast(Sequence[tuple[str, str]], prompt), pictures)


def several(images: Pictures) -> list[Picture]:
    """A picture, or pictures, as a list."""
    single = not isinstance(images, Sequence) or isinstance(images, str)
    return list(cast(Sequence[Picture], [images] if single else images))
