"""A model with its drafter, ready for use: from prompts and images to text."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from hivis.api.detokenize import TextPieces
from hivis.api.settings import resolve
from hivis.api.stream import TextGeneration, TextStream, Writer
from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.engine.batch import Batch, BatchRequest
from hivis.engine.engine import Engine
from hivis.errors import HivisError
from hivis.models.generation_config import generation_settings
from hivis.models.prefix_reuse import ContinuedTarget
from hivis.models.processor import ImageSource, PromptProcessor
from hivis.models.target import HuggingFaceTarget

#: A question; the turns of a conversation, ``(role, text)`` each; or inputs that are made already.
Prompt = str | Sequence[tuple[str, str]] | Inputs
ImageSources = ImageSource | Sequence[ImageSource]


@dataclass(frozen=True)
class Request:
    """One of many prompts.

    Attributes:
        prompt, images: see :meth:`Model.generate`.
        settings: see :meth:`Model.stream`; they come before those of the batch.
    """

    prompt: Prompt
    images: ImageSources = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.settings, Mapping):
            raise HivisError(f"settings: wanted a mapping, got {self.settings!r:.60}")


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

    It generates one sequence at a time: the next one ends a stream that is still being read. The
    output is the same for any drafter and policy, or none (``docs/lossless.md``).

    Attributes:
        engine: the target, the drafter and how they are run.
        processor: turns prompts and images into the target's inputs, and tokens into text.
    """

    engine: Engine
    processor: PromptProcessor

    @property
    def target(self) -> HuggingFaceTarget | ContinuedTarget:
        """The VLM; its Hugging Face model is ``target.model``."""
        return cast(HuggingFaceTarget | ContinuedTarget, self.engine.target)

    @property
    def drafter(self) -> Drafter | None:
        return self.engine.drafter

    @property
    def policy(self) -> Policy:
        return self.engine.policy

    def generate(
        self,
        prompt: Prompt,
        images: ImageSources = (),
        *,
        streamer: Streamer | None = None,
        **settings: Any,
    ) -> TextGeneration:
        """The whole output for a prompt.

        Args:
            prompt: a question, which the model's chat template is put around, with the images
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
        self,
        prompt: Prompt,
        images: ImageSources = (),
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int = 0,
        max_new_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        traced: bool = False,
        **others: Any,
    ) -> TextStream:
        """The output for a prompt, piece by piece. ``prompt``, ``images``: as :meth:`generate`.

        What is not given is as the model's own ``generation_config`` says, or greedy.

        Args:
            temperature: 0 is greedy.
            top_k: draw from the k most probable tokens; 0 from all.
            top_p: draw from the most probable tokens that hold this much probability.
            min_p: draw from tokens at least this probable relative to the most probable one.
            repetition_penalty: lowers tokens that prompt or output hold already; 1 does nothing.
            seed: of the noise; the same seed gives the same output.
            max_new_tokens: the limit; without one in the model's settings 512, or what fits.
            stop: strings before the first of which the output ends.
            traced: keep every cycle as it was, its tree and the way through it, in the statistics.
            others: further settings by their names in transformers' ``GenerationConfig``; also to
                overrule one of the model's that hivis refuses (``no_repeat_ngram_size=0``).

        Raises:
            HivisError: bad prompt, image or setting; a setting that hivis cannot reproduce; or an
                output that would not fit the model's positions.
        """
        given = dict(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            max_new_tokens=max_new_tokens,
            stop=stop,
            **others,
        )
        start = time.perf_counter()
        inputs = self.prepare(prompt, images)
        prepare_ms = (time.perf_counter() - start) * 1e3
        params, writer = self._settle(inputs, given)
        return TextStream(self.engine, inputs, params, writer, traced, prepare_ms)

    def batch(
        self, requests: Iterable[Request | Prompt], *, slots: int = 4, **settings: Any
    ) -> Iterator[tuple[int, TextGeneration]]:
        """Many outputs, several at a time: ``(number, output)`` of each as it ends.

        Every output is what :meth:`generate` gives for its request alone, in float32 token for
        token (``docs/lossless.md``).

        Args:
            requests: prompts, or :class:`Request` with images and settings of their own. They are
                taken, and their images read, when there is a free slot; so they may be endless.
                Until the last output is there, this model may not generate others.
            slots: sequences at a time. Each takes memory for the longest of them.
            settings: those of :meth:`stream`, for all requests that do not say otherwise (no
                ``traced``).

        Raises:
            HivisError: as :meth:`stream`, with the number of the request, once the outputs that had
                begun have been handed out; none begins after it.
        """
        if isinstance(requests, (str, Inputs, Request)) or not isinstance(requests, Iterable):
            raise HivisError(f"requests: wanted several, got one {type(requests).__name__}")
        return _written(Batch(self.engine, self._queue(requests, settings), slots))

    def generate_batch(
        self, requests: Iterable[Request | Prompt], *, slots: int = 4, **settings: Any
    ) -> list[TextGeneration]:
        """The outputs of :meth:`batch`, in the order of their requests."""
        made = sorted(self.batch(requests, slots=slots, **settings), key=lambda entry: entry[0])
        return [output for _, output in made]

    def _queue(
        self, requests: Iterable[Request | Prompt], settings: Mapping[str, Any]
    ) -> Iterator[BatchRequest[tuple[int, Writer]]]:
        for number, entry in enumerate(requests):
            request = entry if isinstance(entry, Request) else Request(entry)
            try:
                inputs = self.prepare(request.prompt, request.images)
                params, writer = self._settle(inputs, {**settings, **request.settings})
                self.engine.check_context(inputs, params)
            except HivisError as error:
                raise HivisError(f"request {number}: {error}") from error
            yield BatchRequest(inputs, params, (number, writer), writer)

    def _settle(self, inputs: Inputs, given: Mapping[str, Any]) -> tuple[SamplingParams, Writer]:
        """How tokens are drawn, and what turns them into text."""
        own = generation_settings(self.target.model)
        settings = resolve(own, given, inputs.length, self.target.max_positions)
        vocab = self.target.head.shape[0]
        for end in settings.params.eos_token_ids or ():
            if not 0 <= end < vocab:
                raise HivisError(f"eos_token_id: wanted ids from 0 to {vocab - 1}, got {end}")
        kinds = self.processor.token_kinds
        pieces = TextPieces(self.processor.decode, kinds.bytes, kinds.special, settings.stop)
        ends = settings.params.eos_token_ids
        return settings.params, Writer(pieces, self.target.eos_token_ids if ends is None else ends)

    def prepare(self, prompt: Prompt, images: ImageSources = ()) -> Inputs:
        """The inputs of a prompt, token ids ``[1, P]`` and pixels, on the model's device."""
        images = several(images)
        if isinstance(prompt, Inputs):
            if images:
                raise HivisError(f"images: wanted none with inputs made already, got {len(images)}")
            return prompt
        if isinstance(prompt, str):
            return self.processor(prompt, images)
        if not isinstance(prompt, Sequence) or not all(
            isinstance(turn, (tuple, list)) and len(turn) == 2 and isinstance(turn[1], str)
            for turn in prompt
        ):
            raise HivisError(
                f"prompt: wanted a string, turns of (role, text) or inputs, got {prompt!r:.60}"
            )
        return self.processor.conversation(cast(Sequence[tuple[str, str]], prompt), images)


def _written(batch: Batch[tuple[int, Writer]]) -> Iterator[tuple[int, TextGeneration]]:
    for (number, writer), made in batch:
        writer.take()
        writer.end()
        yield number, writer.whole(made)


def several(images: ImageSources | None) -> list[ImageSource]:
    """An image, images or none, as a list."""
    if images is None:
        return []
    single = not isinstance(images, Sequence) or isinstance(images, str)
    return list(cast(Sequence[ImageSource], [images] if single else images))
