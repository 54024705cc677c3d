"""Reading conversations in LLaVA's format, what is asked of them, and the model's inputs for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hivis.bundled.paths import TARGET
from hivis.errors import HivisError
from hivis.models.processor import PromptProcessor
from hivis.training.data.conversations import IMAGE_MARKER, Turn, prompts_of, read_conversations
from recipes.tiny.conversations import write_conversations
from recipes.tiny.prompts import training_prompts
from tests.helpers.small_llava import random_llava

HUMAN = {"from": "human", "value": f"{IMAGE_MARKER}\nWhat is this?"}
GPT = {"from": "gpt", "value": "A dog."}
AGAIN = {"from": "human", "value": "Which color?"}


def record(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "1", "conversations": list(turns), **more}


def write(folder: Path, *records: Any, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    return tmp_path


# Reading


def test_lines_and_an_array_read_the_same(folder: Path) -> None:
    records = [record(HUMAN, GPT, AGAIN, GPT, image="a.png"), record(AGAIN, GPT)]
    lines = write(folder, *records)
    lines.write_text("\n" + lines.read_text().replace("\n", "\r\n\r\n"), newline="")
    array = folder / "array.json"
    array.write_text("\ufeff \n" + json.dumps(records, indent=3) + "\n", encoding="utf-8")
    one, two = read_conversations(lines), read_conversations(array)
    assert [(c.turns, c.images) for c in one] == [(c.turns, c.images) for c in two]
    assert one[0].turns[:2] == (Turn("user", HUMAN["value"]), Turn("assistant", "A dog."))
    assert one[0].images == (folder / "a.png",) and one[1].images == ()
    # Line 2, with blank lines between the conversations; and the array's second.
    assert [c.where for c in one] == [f"{lines}:2", f"{lines}:4"]
    assert two[1].where == f"{array}: conversation 1"


def test_a_long_array_is_read_piece_by_piece(folder: Path) -> None:
    """More than one chunk, with escapes and brackets that a cut could fall into."""
    text = 'say "]," \\ and {} \u00e9\U0001f600 ' * 40
    records = [record({"from": "user", "value": f"{i} {text}"}) for i in range(1500)]
    path = folder / "array.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    assert path.stat().st_size > 2 << 20
    found = read_conversations(path)
    assert [c.turns[0].text for c in found] == [f"{i} {text}" for i in range(1500)]


def test_images_are_found_under_images(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    both = {"from": "human", "value": f"Is {IMAGE_MARKER} like {IMAGE_MARKER}?"}
    path = write(elsewhere, record(both, image=["a.png", "b.png"]))
    found = read_conversations(path, folder)
    assert found[0].images == (folder / "a.png", folder / "b.png")
    with pytest.raises(HivisError, match="images: wanted a folder"):
        read_conversations(path, folder / "nowhere")


BAD_RECORDS = {
    "no object": ([1], "wanted an object, got [1]"),
    "no conversations": ({"id": "1"}, "conversations: wanted a list of turns, got none"),
    "no turns": (record(), "conversations: wanted a list of turns, got []"),
    "a turn is no object": (record("hello"), "turn 1: wanted an object"),
    "nobody": (record({"from": ["gpt"], "value": "x"}), "from: wanted one of human, user, gpt"),
    "no text": (record({"from": "human"}), "turn 1: value: wanted some text, got none"),
    "a marker too many": (record(HUMAN, image=[]), "per image (0) or none, got 1"),
    "a marker too few": (record(HUMAN, image=["a.png"] * 2), "image (2) or none, got 1"),
    "no path": (record(HUMAN, image=7), "image: wanted a path or a list of paths, got 7"),
    "an empty path": (record(HUMAN, image=[""]), "image: wanted a path or a list"),
    "a path with a NUL": (record(HUMAN, image="a\0b"), "image: wanted a path or a list"),
    "no such image": (record(HUMAN, image="x/c.png"), "wanted an image file, got no file"),
}


@pytest.mark.parametrize("shape", ["lines", "array"])
@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_bad_conversation_is_named(folder: Path, case: str, shape: str) -> None:
    bad, message = BAD_RECORDS[case]
    good = record(HUMAN, GPT, image="a.png")
    path = write(folder, good, bad, good)
    if shape == "array":
        path.write_text(json.dumps([good, bad, good]))
    with pytest.raises(HivisError) as error:
        read_conversations(path)
    where = f"{path}: conversation 1: " if shape == "array" else f"{path}:2: "
    assert str(error.value).startswith(where) and message in str(error.value)
    assert "\n" not in str(error.value)


BING = {"from": "bing", "value": "Red."}
SYSTEM, BLANK = {"from": "system", "value": "Be brief."}, {"from": "human", "value": " "}
MENDED = {
    "the answer first": ([GPT, AGAIN, GPT], ["user", "assistant"]),
    "a system prompt": ([SYSTEM, AGAIN], ["user"]),
    "two questions": ([AGAIN, AGAIN, GPT], ["user"]),
    "two answers": ([AGAIN, GPT, GPT, AGAIN], ["user", "assistant"]),
    "a blank question": ([BLANK, GPT, AGAIN, GPT, BLANK, GPT], ["user", "assistant"]),
    "another bot": ([AGAIN, BING, GPT], ["user"]),
    "only another bot": ([BING], None),
    "a marker in a text without images": ([HUMAN, GPT], None),
    "no question": ([GPT], None),
    "only a system prompt and a blank": ([SYSTEM, BLANK], None),
}


@pytest.mark.parametrize("case", MENDED)
def test_conversations_begin_with_a_question(folder: Path, case: str) -> None:
    """As they stand in ShareGPT: what comes before it, and from a break on, is left out."""
    said, roles = MENDED[case]
    path = write(folder, record(AGAIN), record(*said))
    left_out: list[str] = []
    found = read_conversations(path, left_out=left_out)
    assert [[turn.role for turn in c.turns] for c in found[1:]] == (
        [] if roles is None else [roles]
    )
    assert left_out == ([f"{path}:2"] if roles is None else [])


GOOD = json.dumps(record(AGAIN))
BAD_FILES = {
    "nothing": ("", "wanted at least one conversation with a question, got none"),
    "blank lines": ("\n \n\n", "wanted at least one conversation with a question, got none"),
    "an empty array": (" [ ]\n", "wanted at least one conversation with a question, got none"),
    "not JSON": (f"{GOOD}\nhello\n", "data:2: wanted a line of JSON"),
    "half a line": (f"{GOOD}\n{GOOD[:-9]}", "data:2: wanted a line of JSON"),
    "too deep": ("[" * 100_000, "conversation 0: wanted JSON"),
    "too deep a line": ('{"a":' * 100_000, "data:1: wanted a line of JSON"),
    "an array that ends early": (f"[{GOOD}, {GOOD}", "conversation 2: wanted JSON"),
    "an element that ends early": (f"[{GOOD}, {GOOD[:-9]}", "conversation 1: wanted JSON"),
    "no comma": (f"[{GOOD} {GOOD}]", "conversation 1: wanted JSON"),
    "a comma at the end": (f"[{GOOD},]", "conversation 1: wanted JSON"),
    "a comma at the start": (f"[,{GOOD}]", "conversation 0: wanted JSON"),
    "two arrays": (f"[{GOOD}]\n[{GOOD}]", "wanted the end of the file after the array"),
    "not text": (b"\xff\xfe{}", "wanted a readable file of conversations"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named(tmp_path: Path, case: str) -> None:
    content, message = BAD_FILES[case]
    path = tmp_path / "data"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(HivisError) as error:
        read_conversations(path)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(HivisError, match="wanted a readable file of conversations"):
            read_conversations(path)


# Asking


def test_what_is_asked_has_its_history(folder: Path) -> None:
    late = {"from": "human", "value": f"And {IMAGE_MARKER}?"}
    path = write(
        folder, record(HUMAN, GPT, late, GPT, AGAIN, image=["a.png", "b.png"]), record(AGAIN)
    )
    found = read_conversations(path)
    assert [len(p.turns) for p in prompts_of(found, 1)] == [1, 1]
    assert [len(p.turns) for p in prompts_of(found, 2)] == [1, 3, 1]
    assert [len(p.images) for p in prompts_of(found, 9)] == [1, 2, 2, 0]
    # Nothing that is not asked has to be kept.
    short = read_conversations(path, turns=2)
    assert len(short[0].turns) == 3 and prompts_of(short, 2) == prompts_of(found, 2)
    for count in (0, -1):
        with pytest.raises(HivisError, match="turns: wanted at least 1"):
            prompts_of(found, count)
        with pytest.raises(HivisError, match="turns: wanted at least 1"):
            read_conversations(path, turns=count)
        with pytest.raises(HivisError, match="count: wanted at least 1"):
            read_conversations(path, count=count)


@pytest.mark.parametrize("array", [False, True])
def test_what_follows_the_first_few_is_not_looked_at(folder: Path, array: bool) -> None:
    path = write(folder, record(AGAIN), record(AGAIN), "bad")
    if array:
        path.write_text(f"[{GOOD}, {GOOD}, bad")
    assert len(read_conversations(path, count=2)) == 2
    with pytest.raises(HivisError, match=":3: wanted an object|conversation 2: wanted JSON"):
        read_conversations(path, count=3)


word = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=6)


@st.composite
def talks(draw: st.DrawFn) -> tuple[list[str], int]:
    """Texts in turn, and how many markers the users' hold."""
    texts = []
    for i in range(draw(st.integers(1, 6))):
        if i % 2:
            texts.append(draw(word))
        else:
            parts = draw(st.lists(word, min_size=1, max_size=3))
            texts.append(IMAGE_MARKER.join(parts) + draw(st.sampled_from(["?", ".\n"])))
    return texts, sum(text.count(IMAGE_MARKER) for text in texts[::2])


@settings(max_examples=60, deadline=None)
@given(st.lists(talks(), min_size=1, max_size=4), st.integers(1, 4), st.booleans())
def test_order_and_slots_survive(
    tmp_path_factory: pytest.TempPathFactory,
    said: list[tuple[list[str], int]],
    count: int,
    array: bool,
) -> None:
    folder = tmp_path_factory.mktemp("talks")
    records = []
    for number, (texts, markers) in enumerate(said):
        names = [f"{number}-{i}.png" for i in range(markers)]
        for name in names:
            (folder / name).touch()
        turns = [{"from": ("human", "gpt")[i % 2], "value": t} for i, t in enumerate(texts)]
        records.append(record(*turns, image=names))
    path = write(folder, *records)
    if array:
        path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    found = read_conversations(path)
    assert [[turn.text for turn in c.turns] for c in found] == [texts for texts, _ in said]
    prompts = prompts_of(found, count)
    assert prompts == prompts_of(read_conversations(path, turns=count), count)
    expected = [
        (tuple(texts[: i + 1]), number)
        for number, (texts, _) in enumerate(said)
        for i in range(0, min(len(texts), 2 * count), 2)
    ]
    assert [tuple(t.text for t in p.turns) for p in prompts] == [texts for texts, _ in expected]
    for prompt, (texts, number) in zip(prompts, expected, strict=True):
        slots = sum(text.count(IMAGE_MARKER) for text in texts[::2])
        assert [p.name for p in prompt.images] == [f"{number}-{i}.png" for i in range(slots)]
        assert prompt.turns[-1].role == "user"


# The model's inputs


@pytest.fixture(scope="module")
def processor() -> PromptProcessor:
    return PromptProcessor.load(TARGET, random_llava())


def text_of(processor: PromptProcessor, tokens: torch.Tensor) -> str:
    """The text of a prompt, each image's slots as one."""
    text = processor.processor.tokenizer.decode(tokens[0])
    while f"{processor.image_token}{processor.image_token}" in text:
        text = text.replace(f"{processor.image_token}{processor.image_token}", IMAGE_MARKER)
    return text


@pytest.mark.parametrize(
    "text", ["<image>\nWhat is it?", "What is it?\n<image>", "What is it?", "<image>What is it?"]
)
def test_one_question_is_put_as_by_a_call(processor: PromptProcessor, text: str) -> None:
    image = Image.new("RGB", (160, 160), "red")
    one = processor.conversation([("user", text)], [image])
    two = processor("What is it?", [image])
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(one.features["pixel_values"], two.features["pixel_values"])


def test_history_and_images_go_through_the_template(processor: PromptProcessor) -> None:
    red, blue = Image.new("RGB", (160, 160), "red"), Image.new("RGB", (160, 160), "blue")
    turns = [
        ("user", "<image>\nWhat is it?"),
        ("assistant", "It is a dog."),
        ("user", "Is that\n<image>\nlike it?"),
    ]
    made = processor.conversation(turns, [red, blue])
    # This template puts a turn's images before its text.
    assert text_of(processor, made.tokens) == (
        "<s>USER: <image>\nWhat is it? ASSISTANT: It is a dog.</s>"
        "USER: <image>\nIs that\nlike it? ASSISTANT:"
    )
    assert made.features["pixel_values"].shape[0] == 2
    assert torch.equal(
        made.features["pixel_values"][1], processor("x", [blue]).features["pixel_values"][0]
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Is <image> like <image>?", ["Is ", None, " like ", None, "?"]),
        ("<image>\n<image>\nCompare.", [None, None, "Compare."]),
        ("Look:\n<image>\n", ["Look:", None]),
        ("<image>", [None]),
        (" plain \n", ["plain"]),
    ],
)
def test_slots_stand_where_the_markers_stood(
    processor: PromptProcessor, monkeypatch: pytest.MonkeyPatch, text: str, parts: list[str | None]
) -> None:
    seen: list[Any] = []

    def template(messages: Any, **options: Any) -> str:
        seen.append((messages, options))
        return "x"

    monkeypatch.setattr(processor.processor, "apply_chat_template", template)
    monkeypatch.setattr(PromptProcessor, "_inputs", lambda self, text, images: text)
    processor.conversation([("user", text)], ["a.png"] * parts.count(None))
    ((messages, options),) = seen
    assert options == {"add_generation_prompt": True}
    assert [p.get("text") for p in messages[0]["content"]] == parts


@pytest.mark.parametrize(
    ("turns", "images", "message"),
    [
        ([], 0, "wanted user and assistant in turn"),
        ([("assistant", "a")], 0, "wanted user and assistant in turn"),
        ([("user", "a"), ("user", "b")], 0, "wanted user and assistant in turn"),
        ([("user", "a"), ("assistant", "b")], 0, "wanted a last turn of the user"),
        ([("user", "<image> a")], 0, r"wanted one <image> per image \(0\), got 1"),
        ([("user", "<image> a")], 2, r"wanted one <image> per image \(2\), got 1"),
        ([("user", "a"), ("assistant", "<image>"), ("user", "b")], 0, "without <image>"),
    ],
)
def test_a_bad_conversation_makes_no_inputs(
    processor: PromptProcessor, turns: list[tuple[str, str]], images: int, message: str
) -> None:
    with pytest.raises(HivisError, match=message):
        processor.conversation(turns, [Image.new("RGB", (8, 8))] * images)


# Generated conversations


def test_generated_conversations_are_the_training_prompts(tmp_path: Path) -> None:
    path = write_conversations(tmp_path / "data", 12, seed=5)
    found = read_conversations(path)
    expected = list(training_prompts(5, 12))
    assert any(image is None for image, _ in expected) and len(found) == 12
    for conversation, (image, question) in zip(found, expected, strict=True):
        slot = "" if image is None else f"{IMAGE_MARKER}\n"
        assert conversation.turns == (Turn("user", slot + question),)
        assert len(conversation.images) == (image is not None)
        if image is not None:
            with Image.open(conversation.images[0]) as written:
                assert written.tobytes() == image.tobytes()
    again = write_conversations(tmp_path / "again", 12, seed=5)
    assert again.read_bytes() == path.read_bytes()
    assert sorted(os.listdir(path.parent)) == ["conversations.jsonl", "images"]


def test_the_command_refuses_to_write_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipes.tiny.conversations", "--out", "x", "--count", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "error: count: wanted at least 1, got 0\n"
    assert list(tmp_path.iterdir()) == []
