"""Turn prompts, conversations and images into a model's inputs, with its own processor."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from PIL import Image, UnidentifiedImageError
from transformers import PreTrainedModel

from hivis.core.target import Inputs
from hivis.errors import HivisError, first_line
from hivis.models.families.registry import family_of

MAX_PIXELS = 64_000_000

ImageSource = str | Path | Image.Image
#: Who speaks, in turn.
ROLES = ("user", "assistant")
_SLOT = {"type": "image"}
#: Packages that some processors cannot be loaded without, which their errors do not always say.
_PROCESSORS_WANT = ("torchvision", "num2words")


_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class TokenKinds:
    """Tokens on which it depends how others are decoded.

    Attributes:
        bytes: those that stand for one byte, a run of which is decoded as a whole.
        special: those that are left out of the output.
    """

    bytes: frozenset[int]
    special: frozenset[int]


# Looking through a large vocabulary takes a tenth of a second: once is enough.
_kinds: WeakKeyDictionary[Any, TokenKinds] = WeakKeyDictionary()


def token_kinds(tokenizer: Any) -> TokenKinds:
    """Those of a tokenizer, as it was when it was first asked for."""
    if tokenizer not in _kinds:
        added = tokenizer.added_tokens_decoder.items()
        _kinds[tokenizer] = TokenKinds(
            frozenset(i for piece, i in tokenizer.get_vocab().items() if _BYTE.fullmatch(piece)),
            frozenset(tokenizer.all_special_ids) | {i for i, token in added if token.special},
        )
    return _kinds[tokenizer]


def open_image(source: ImageSource) -> Image.Image:
    """An image as RGB; HivisError if it is missing, unreadable or too large."""
    if isinstance(source, Image.Image):
        if not all(source.size):
            raise HivisError(f"image: wanted some pixels, got {source.size}")
        return source.convert("RGB")
    if not isinstance(source, (str, Path)):
        raise HivisError(f"image: wanted a path or a PIL image, got {type(source).__name__}")
    try:
        with warnings.catch_warnings():
            # Pillow warns where our own limit, which is lower, is about to refuse.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(source)
        with image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise HivisError(
                    f"image {source}: wanted at most {MAX_PIXELS} pixels, got {width}x{height}"
                )
            return image.convert("RGB")
    except FileNotFoundError:
        raise HivisError(f"image {source}: no such file") from None
    except Image.DecompressionBombError:
        raise HivisError(f"image {source}: wanted at most {MAX_PIXELS} pixels") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, HivisError):
            raise
        raise HivisError(f"image {source}: not readable as an image ({error})") from None


@dataclass(frozen=True)
class PromptProcessor:
    """Turns a prompt and its images into :class:`Inputs` with the model's own processor."""

    processor: Any
    image_token: str
    device: torch.device
    dtype: torch.dtype
    #: What a chat template would set around an image token.
    markers: tuple[str, str] = ("", "")

    @classmethod
    def load(cls, folder: Path, model: PreTrainedModel) -> PromptProcessor:
        processor_class = family_of(model.config.model_type).processor_class
        try:
            processor = processor_class.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:
            absent = [name for name in _PROCESSORS_WANT if find_spec(name) is None]
            hint = f" (not installed here: {', '.join(absent)})" if absent else ""
            raise HivisError(f"processor of {folder}: {first_line(error)}{hint}") from error
        return cls.of(processor, model)

    @classmethod
    def of(cls, processor: Any, model: PreTrainedModel) -> PromptProcessor:
        """From a processor that is loaded already."""
        for name in ("tokenizer", "image_token"):
            if getattr(processor, name, None) is None:
                kind = type(processor).__name__
                raise HivisError(f"processor: wanted one with a {name}, got {kind}")
        family = family_of(model.config.model_type)
        before, after = (
            "" if token is None else processor.tokenizer.convert_ids_to_tokens(token)
            for token in family.image_markers(model.config)
        )
        return cls(processor, processor.image_token, model.device, model.dtype, (before, after))

    def __call__(
        self, prompt: str, images: Sequence[ImageSource] = (), *, raw: bool = False
    ) -> Inputs:
        """Build the inputs of one prompt.

        Args:
            prompt: a question, put into the model's chat template with its images before it;
                or, where it says itself where they go, with one image slot per image.
            images: paths or PIL images.
            raw: take the prompt as it is, without the chat template.

        Raises:
            HivisError: slots and images do not match, or an image cannot be read.
        """
        if not isinstance(prompt, str) or not prompt.strip():
            raise HivisError(f"prompt: wanted some text, got {prompt!r}")
        if isinstance(images, (str, Path, Image.Image)):
            raise HivisError(f"images: wanted a list of them, got {type(images).__name__}")
        slots = prompt.count(self.image_token)
        if slots != len(images) and (slots or raw):
            raise HivisError(
                f"prompt: wanted one {self.image_token} slot per image ({len(images)}), got {slots}"
            )
        before, after = self.markers
        if before and not raw and before not in prompt:
            prompt = prompt.replace(self.image_token, before + self.image_token + after)
        text = prompt if raw else self._in_chat(prompt, 0 if slots else len(images))
        return self._inputs(text, images)

    def conversation(
        self, turns: Sequence[tuple[str, str]], images: Sequence[ImageSource] = ()
    ) -> Inputs:
        """Build the inputs of a conversation that the model is to go on with.

        Args:
            turns: ``(role, text)`` in turn, ``"user"`` first and last, otherwise ``"assistant"``.
                Each ``<image>`` in a user's text is the slot of an image, whatever the model's
                own image token is.
            images: one per slot, in order; without slots they go before the first text.

        Raises:
            HivisError: slots and images do not match, an image cannot be read, or a text holds
                the model's image token.
        """
        if not turns or any(role != ROLES[i % 2] for i, (role, _) in enumerate(turns)):
            raise HivisError(
                f"turns: wanted user and assistant in turn, got {[r for r, _ in turns]}"
            )
        if len(turns) % 2 == 0:
            raise HivisError("turns: wanted a last turn of the user, got one of the assistant")
        contents = [_content(text) if role == "user" else [_said(text)] for role, text in turns]
        entries = [entry for content in contents for entry in content]
        slots = sum(entry["type"] == "image" for entry in entries)
        if slots not in (0, len(images)):
            raise HivisError(f"turns: wanted one <image> per image ({len(images)}), got {slots}")
        if any(self.image_token in entry.get("text", "") for entry in entries):
            raise HivisError(f"turns: wanted texts without {self.image_token}, got one with it")
        if not slots:
            contents[0] = [_SLOT] * len(images) + contents[0]
        messages = [
            {"role": role, "content": content}
            for (role, _), content in zip(turns, contents, strict=True)
        ]
        return self._inputs(self._render(messages), images)

    def _inputs(self, text: str, images: Sequence[ImageSource]) -> Inputs:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # half a pair of surrogates, or a byte that is no text
            raise HivisError(
                f"prompt: wanted Unicode text, got {text[error.start]!r} in it"
            ) from None
        opened = [open_image(image) for image in images] or None
        made = self.processor(text=text, images=opened, return_tensors="pt").to(self.device)
        tokens = made.pop("input_ids")
        made.pop("attention_mask", None)  # one prompt, no padding
        made.pop("mm_token_type_ids", None)  # the tokens say it
        features = {
            name: value.to(self.dtype) if value.is_floating_point() else value
            for name, value in made.items()
        }
        return Inputs(tokens, features)

    def _in_chat(self, prompt: str, slots: int) -> str:
        return self._render([{"role": "user", "content": [_SLOT] * slots + [_said(prompt)]}])

    def _render(self, messages: list[dict[str, Any]]) -> str:
        try:
            return self.processor.apply_chat_template(messages, add_generation_prompt=True)
        except Exception as error:  # none at all, or one that jinja cannot read
            raise HivisError(
                f"chat template: wanted one in the model's processor (or raw=True with a whole "
                f"prompt), got: {first_line(error)}"
            ) from error

    @property
    def token_kinds(self) -> TokenKinds:
        """Tokens that stand for bytes, and special ones."""
        return token_kinds(self.processor.tokenizer)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of emitted tokens, special ones left out."""
        return self.processor.tokenizer.decode(list(tokens), skip_special_tokens=True)


def _said(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _content(text: str) -> list[dict[str, str]]:
    """A user's turn as a chat template takes it: its texts, and a slot for each ``<image>``.

    LLaVA's data has a line break behind a slot; templates set their own.
    """
    first, *rest = text.strip().split("<image>")
    content = [_said(first)]
    for part in rest:
        content += [_SLOT, _said(part.removeprefix("\n"))]
    # Behind a question that its image follows, a line break would be left over.
    texts = [entry for entry in content if entry.get("text")]
    if texts:
        texts[-1]["text"] = texts[-1]["text"].rstrip()
    return [entry for entry in content if entry == _SLOT or entry["text"]]
