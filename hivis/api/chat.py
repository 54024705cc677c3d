"""A conversation: every answer knows the turns before it, and their images."""

from __future__ import annotations

import dataclasses
from typing import Any

from hivis.api.model import ImageSources, Model, several
from hivis.api.stream import TextStream
from hivis.errors import HivisError
from hivis.models.prefix_reuse import ContinuedTarget
from hivis.models.processor import ImageSource
from hivis.models.target import HuggingFaceTarget

_SLOT = "<image>"


class Chat:
    """Turns with one model. The prompts of earlier turns, images included, are not read again.

    Attributes:
        turns: what was said so far, ``("user" | "assistant", text)`` in turn.
        images: those of all turns, in order.
    """

    def __init__(self, model: Model) -> None:
        target = model.target
        if isinstance(target, HuggingFaceTarget):
            engine = dataclasses.replace(model.engine, target=ContinuedTarget(target))
            model = Model(engine, model.processor)
        self._model = model
        self.turns: list[tuple[str, str]] = []
        self.images: list[ImageSource] = []
        self._asked: tuple[str, list[ImageSource]] = ("", [])
        self._stream: TextStream | None = None

    def say(self, text: str, images: ImageSources = (), **settings: Any) -> TextStream:
        """The answer to ``text``, piece by piece. Arguments and errors: :meth:`Model.stream`.

        What was read of it until the next turn becomes part of the conversation: an answer that was
        left in the middle ends there, and one of which nothing was read is left out, as is its
        question.
        """
        self._settle()
        if not isinstance(text, str) or not text.strip():
            raise HivisError(f"text: wanted some, got {text!r}")
        if _SLOT in text:
            raise HivisError(f"text: wanted one without {_SLOT}, got one with it")
        images = several(images)
        question = _SLOT * len(images) + text
        turns = [*self.turns, ("user", question)]
        stream = self._model.stream(turns, [*self.images, *images], **settings)
        self._asked, self._stream = (question, images), stream
        return stream

    def _settle(self) -> None:
        """Make the last answer, as far as it was read, a part of the conversation."""
        if self._stream is not None and self._stream.tokens:
            question, images = self._asked
            self.turns += [("user", question), ("assistant", self._stream.text)]
            self.images += images
        self._stream = None
