"""Conversations about images, in the data format of LLaVA (and of ShareGPT, without images).

A file holds one conversation per line (JSON Lines), or one JSON array of them::

    {"id": "7", "image": "coco/1.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A dog."}]}

``image`` may also be a list, or absent. ``<image>`` in a human turn marks the place of an image.
A prompt for the target is a conversation, too: one that ends with a human turn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

from hivis.errors import HivisError, shorten

#: The place of an image in a human turn.
IMAGE_MARKER = "<image>"
Role = Literal["user", "assistant", "other"]
_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
#: Characters that are read at once, and the longest conversation in a JSON array, in characters.
_CHUNK, _LONGEST = 1 << 20, 1 << 26


class Turn(NamedTuple):
    """The message of one side. Only a user's text has image markers."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Alternating turns of user and assistant; the first is the user's.

    Attributes:
        images: one for each marker, in order; without any marker, all come before the first turn.
        number: its index in the file, from 0; its prompts have the same number.
        where: file and line, or file and index in the array, for error messages.
    """

    turns: tuple[Turn, ...]
    images: tuple[Path, ...]
    number: int
    where: str

    def prompts(self, count: int) -> list[Conversation]:
        """The first ``count`` questions as prompts, each with all the turns before it."""
        prompts: list[Conversation] = []
        marked = any(IMAGE_MARKER in turn.text for turn in self.turns if turn.role == "user")
        markers = 0
        for i, turn in enumerate(self.turns):
            if turn.role == "assistant":
                continue
            if len(prompts) == count:
                break
            markers += turn.text.count(IMAGE_MARKER)
            images = self.images[:markers] if marked else self.images
            prompts.append(replace(self, turns=self.turns[: i + 1], images=images))
        return prompts


def prompts_of(conversations: Iterable[Conversation], count: int = 1) -> list[Conversation]:
    """The first ``count`` questions of each conversation as prompts, in order."""
    if count < 1:
        raise HivisError(f"turns: wanted at least 1, got {count}")
    return [prompt for conversation in conversations for prompt in conversation.prompts(count)]


def read_conversations(
    path: str | Path,
    images: str | Path | None = None,
    *,
    turns: int | None = None,
    count: int | None = None,
    left_out: list[str] | None = None,
) -> list[Conversation]:
    """Read a file of conversations piece by piece; only the returned ones stay in memory.

    Args:
        images: the folder that image paths are relative to; by default the folder of ``path``.
        turns: keep only the turns that the first ``turns`` questions of a conversation need.
        count: stop after this many conversations; the rest of the file is not read.
        left_out: receives the place (file and line) of each conversation that is skipped because it
            has no question, or markers but no image. ShareGPT has some of both.

    Raises:
        HivisError: the file is missing, empty or not JSON; a conversation is not in the format of
            the module's docstring, or one of its images does not exist.
    """
    for name, number in (("turns", turns), ("count", count)):
        if number is not None and number < 1:
            raise HivisError(f"{name}: wanted at least 1, got {number}")
    path = Path(path)
    folder = Path(images) if images is not None else path.parent
    if not folder.is_dir():
        raise HivisError(f"images: wanted a folder, got {folder}")
    files = _FileListing()
    found = []
    for number, (where, record) in enumerate(islice(_records(path), count)):
        conversation = _conversation(record, folder, number, where)
        if not conversation.turns:
            if left_out is not None:
                left_out.append(where)
            continue
        for image in conversation.images:
            if image not in files:
                raise HivisError(f"{where}: image: wanted an image file, got no file {image}")
        found.append(conversation if turns is None else conversation.prompts(turns)[-1])
    if not found:
        raise HivisError(f"{path}: wanted at least one conversation with a question, got none")
    return found


def _conversation(record: Any, folder: Path, number: int, where: str) -> Conversation:
    if not isinstance(record, dict):
        raise HivisError(f"{where}: wanted an object, got {shorten(record)}")
    messages = record.get("conversations")
    if not isinstance(messages, list) or not messages:
        raise HivisError(f"{where}: conversations: wanted a list of turns, got {shorten(messages)}")
    turns = _alternating([_turn(message, i, where) for i, message in enumerate(messages)])
    images = record.get("image")
    names = [] if images is None else images if isinstance(images, list) else [images]
    if not all(isinstance(name, str) and name and "\0" not in name for name in names):
        raise HivisError(f"{where}: image: wanted a path or a list of paths, got {shorten(images)}")
    markers = sum(turn.text.count(IMAGE_MARKER) for turn in turns if turn.role == "user")
    if images is None and markers:
        turns, markers = (), 0
    if markers not in (0, len(names)):
        raise HivisError(
            f"{where}: wanted one {IMAGE_MARKER} per image ({len(names)}) or none, got {markers}"
        )
    return Conversation(turns, tuple(folder / name for name in names), number, where)


def _alternating(messages: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns from the first question on, as long as the two sides alternate.

    Many conversations of ShareGPT start with an answer or a system prompt.
    """
    turns: list[Turn] = []
    for turn in messages:
        blank = turn.role == "user" and not turn.text.strip()
        if turn.role == ("assistant" if len(turns) % 2 else "user") and not blank:
            turns.append(turn)
        elif turns:
            break
    return tuple(turns)


def _turn(record: Any, index: int, where: str) -> Turn:
    place = f"{where}: turn {index + 1}"
    if not isinstance(record, dict):
        raise HivisError(f"{place}: wanted an object with from and value, got {shorten(record)}")
    speaker, text = record.get("from"), record.get("value")
    if not isinstance(speaker, str):
        wanted = ", ".join(_ROLES)
        raise HivisError(f"{place}: from: wanted one of {wanted}, got {shorten(speaker)}")
    # ShareGPT also has system prompts and other bots; their role is "other".
    role = _ROLES.get(speaker, "other")
    if not isinstance(text, str):
        raise HivisError(f"{place}: value: wanted some text, got {shorten(text)}")
    return Turn(role, text)


class _FileListing:
    """Which files exist. Each folder is listed once, far faster than one system call per file."""

    def __init__(self) -> None:
        self._names: dict[Path, set[str]] = {}

    def __contains__(self, file: Path) -> bool:
        folder = file.parent
        if folder not in self._names:
            try:
                self._names[folder] = set(os.listdir(folder))
            except OSError:
                self._names[folder] = set()
        # The listing does not tell whether the file system ignores case.
        return file.name in self._names[folder] or file.is_file()


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """``(where, parsed JSON)`` of every conversation of a file."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            head = file.read(1)
            while head.isspace():
                head = file.read(1)
            if head == "[":
                yield from _array(file, path)
            elif head:
                file.seek(0)
                yield from _lines(file, path)
    except (OSError, UnicodeDecodeError) as error:
        raise HivisError(f"{path}: wanted a readable file of conversations, got {error}") from None


def _lines(file: TextIO, path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        if line.isspace():
            continue
        where = f"{path}:{number}"
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise HivisError(f"{where}: wanted a line of JSON, got {error}") from None


def _array(file: TextIO, path: Path) -> Iterator[tuple[str, Any]]:
    """The elements of a JSON array whose opening bracket has been read."""
    decode = json.JSONDecoder().raw_decode
    buffer, at, index, ended = "", 0, 0, False
    while True:
        where = f"{path}: conversation {index}"
        at = _skip_space(buffer, at)
        # Between elements there is a comma; before the first there is none.
        start = _skip_space(buffer, at + 1) if index and buffer[at : at + 1] == "," else at
        if buffer[at : at + 1] == "]":
            if _skip_space(buffer, at + 1) < len(buffer) or file.read().strip():
                raise HivisError(f"{path}: wanted the end of the file after the array, got more")
            return
        try:
            if index and start == at and at < len(buffer):
                raise ValueError(f"{shorten(buffer[at : at + 20])} where a comma or ] should be")
            record, at = decode(buffer, start)
        except (ValueError, RecursionError) as error:
            if ended or len(buffer) - at > _LONGEST or isinstance(error, RecursionError):
                why = error.msg if isinstance(error, json.JSONDecodeError) else error
                raise HivisError(f"{where}: wanted JSON, got {why}") from None
            # The element may be incomplete: read twice as much each time, to stay linear in time.
            more = file.read(max(_CHUNK, len(buffer) - at))
            buffer, at, ended = buffer[at:] + more, 0, not more
            continue
        yield where, record
        index += 1


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
