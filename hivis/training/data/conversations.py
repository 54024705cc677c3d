"""Conversations about images, in the data format of LLaVA (and of ShareGPT, without images).

A file holds one conversation per line (JSON Lines), or one JSON array of them::

    {"id": "7", "image": "coco/1.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A dog."}]}

``image`` may also be a list, or be absent. ``<image>`` in a human turn says where an image goes.
What a target is asked is a conversation, too: one that ends in a human turn.
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

#: Where an image goes, in human turns.
IMAGE_MARKER = "<image>"
Role = Literal["user", "assistant", "other"]
_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
#: Characters read at once, and the most that one conversation of a JSON array may have.
_CHUNK, _LONGEST = 1 << 20, 1 << 26


class Turn(NamedTuple):
    """What one side says. A user's text may hold markers, an assistant's is taken as it is."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of user and assistant in alternation, the user's first.

    Attributes:
        images: one for each marker, in order; or, without any marker, all before the first turn.
        number: its place in the file, from 0, which its prompts have in common.
        where: file and line, or index in the file's array, for messages.
    """

    turns: tuple[Turn, ...]
    images: tuple[Path, ...]
    number: int
    where: str

    def prompts(self, count: int) -> list[Conversation]:
        """The first ``count`` questions as prompts, each behind all the turns before it."""
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
    """The prompts of all conversations: the first ``count`` questions of each, in order."""
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
    """Read a file of conversations, piece by piece: only what is returned stays in memory.

    Args:
        images: what the paths of images are relative to; by default the folder of ``path``.
        turns: keep only what the first so many questions of each conversation need.
        count: stop behind so many conversations; what follows is not looked at.
        left_out: gets where each conversation stands that holds no question, or has no image and
            speaks of one with a marker. ShareGPT has some of both.

    Raises:
        HivisError: the file is missing, empty or not JSON; a conversation is not what the module's
            docstring says, or one of its images does not exist.
    """
    for name, number in (("turns", turns), ("count", count)):
        if number is not None and number < 1:
            raise HivisError(f"{name}: wanted at least 1, got {number}")
    path = Path(path)
    folder = Path(images) if images is not None else path.parent
    if not folder.is_dir():
        raise HivisError(f"images: wanted a folder, got {folder}")
    there = _FileListing()
    found = []
    for number, (where, record) in enumerate(islice(_records(path), count)):
        conversation = _conversation(record, folder, number, where)
        if not conversation.turns:
            if left_out is not None:
                left_out.append(where)
            continue
        for image in conversation.images:
            if image not in there:
                raise HivisError(f"{where}: image: wanted an image file, got no file {image}")
        found.append(conversation if turns is None else conversation.prompts(turns)[-1])
    if not found:
        raise HivisError(f"{path}: wanted at least one conversation with a question, got none")
    return found


def _conversation(record: Any, folder: Path, number: int, where: str) -> Conversation:
    if not isinstance(record, dict):
        raise HivisError(f"{where}: wanted an object, got {shorten(record)}")
    said = record.get("conversations")
    if not isinstance(said, list) or not said:
        raise HivisError(f"{where}: conversations: wanted a list of turns, got {shorten(said)}")
    turns = _in_turn([_turn(one, i, where) for i, one in enumerate(said)])
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


def _in_turn(said: Sequence[Turn]) -> tuple[Turn, ...]:
    """From the first question on, as long as the two sides take turns.

    Many of ShareGPT's begin in the middle, with an answer or a system prompt.
    """
    turns: list[Turn] = []
    for turn in said:
        blank = turn.role == "user" and not turn.text.strip()
        if turn.role == ("assistant" if len(turns) % 2 else "user") and not blank:
            turns.append(turn)
        elif turns:
            break
    return tuple(turns)


def _turn(record: Any, index: int, where: str) -> Turn:
    at = f"{where}: turn {index + 1}"
    if not isinstance(record, dict):
        raise HivisError(f"{at}: wanted an object with from and value, got {shorten(record)}")
    speaker, text = record.get("from"), record.get("value")
    if not isinstance(speaker, str):
        wanted = ", ".join(_ROLES)
        raise HivisError(f"{at}: from: wanted one of {wanted}, got {shorten(speaker)}")
    # ShareGPT also has system prompts, and other bots: nobody here takes their turn.
    role = _ROLES.get(speaker, "other")
    if not isinstance(text, str):
        raise HivisError(f"{at}: value: wanted some text, got {shorten(text)}")
    return Turn(role, text)


class _FileListing:
    """Which files exist. Each folder is listed once: far cheaper than a look at every file."""

    def __init__(self) -> None:
        self._names: dict[Path, set[str]] = {}

    def __contains__(self, file: Path) -> bool:
        folder = file.parent
        if folder not in self._names:
            try:
                self._names[folder] = set(os.listdir(folder))
            except OSError:
                self._names[folder] = set()
        # The listing does not tell where upper and lower case are the same.
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
    """The elements of an array whose opening bracket has been read."""
    decode = json.JSONDecoder().raw_decode
    buffer, at, index, ended = "", 0, 0, False
    while True:
        where = f"{path}: conversation {index}"
        at = _past_space(buffer, at)
        # A comma stands between elements; none is wanted before the first.
        start = _past_space(buffer, at + 1) if index and buffer[at : at + 1] == "," else at
        if buffer[at : at + 1] == "]":
            if _past_space(buffer, at + 1) < len(buffer) or file.read().strip():
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
            # Perhaps cut off: twice as much is read each time, so that this stays linear.
            more = file.read(max(_CHUNK, len(buffer) - at))
            buffer, at, ended = buffer[at:] + more, 0, not more
            continue
        yield where, record
        index += 1


def _past_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
