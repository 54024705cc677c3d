"""The pieces of a text: joined they are the whole, and none shows what a later token completes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import AutoTokenizer

from hivis.api.detokenize import TextPieces
from hivis.bundled import paths
from hivis.errors import HivisError
from hivis.models.processor import token_kinds

WORDS = ["▁a", "▁the", "▁cat", "s", "▁", "▁▁", ".", "▁你", "好", "�", "\n", "<b>"]


def sentencepiece(leading: str) -> Tokenizer:
    """Llama's kind: words with their space, bytes for the rest, and the first space is dropped."""
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocab |= {word: 256 + place for place, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token=None))
    if leading == "strip":
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    else:
        tokenizer.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace("▁", "first"), decoders.Fuse()]
        )
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return tokenizer


class Plain:
    """A tokenizer as hivis uses one: its vocabulary, its special tokens, and ``decode``."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.all_special_ids: list[int] = []
        self.added_tokens_decoder = tokenizer.get_added_tokens_decoder()

    def get_vocab(self) -> dict[str, int]:
        return self.tokenizer.get_vocab()

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)


class ByteLevel:
    def __init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(paths.TARGET)
        self.all_special_ids = self.tokenizer.all_special_ids
        self.added_tokens_decoder = self.tokenizer.added_tokens_decoder

    def get_vocab(self) -> dict[str, int]:
        return self.tokenizer.get_vocab()

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)


TOKENIZERS = {
    "byte level": ByteLevel(),
    "sentencepiece": Plain(sentencepiece("strip")),
    "metaspace": Plain(sentencepiece("metaspace")),
}


def pieces_of(tokenizer, stop: Sequence[str] = ()) -> TextPieces:
    return TextPieces(
        tokenizer.decode, token_kinds(tokenizer).bytes, token_kinds(tokenizer).special, stop
    )


def of_tokens(name: str) -> st.SearchStrategy[list[int]]:
    """Sequences of tokens: any, mixed with the bytes of characters of all lengths, also cut."""
    tokenizer = TOKENIZERS[name]
    vocab = tokenizer.get_vocab()
    alphabet = bytes_of(tokenizer)
    some = st.sampled_from(sorted(vocab.values()))
    characters = st.text("aé你😀\n ", max_size=3).flatmap(
        lambda text: st.integers(0, 2).map(
            lambda cut: [alphabet[byte] for byte in text.encode()[: len(text.encode()) - cut]]
        )
    )
    parts = st.one_of(some.map(lambda token: [token]), characters)
    return st.lists(parts, max_size=60).map(lambda lists: [t for part in lists for t in part])


def bytes_of(tokenizer) -> dict[int, int]:
    """The token of every byte."""
    vocab = tokenizer.get_vocab()
    if "<0x00>" in vocab:
        return {byte: vocab[f"<0x{byte:02X}>"] for byte in range(256)}
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    single = {byte: vocab[chr(byte)] for byte in visible}
    return single | {byte: vocab[chr(256 + place)] for place, byte in enumerate(others)}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_pieces_joined_are_the_text_of_all_tokens(name, data):
    tokens = data.draw(of_tokens(name))
    tokenizer = TOKENIZERS[name]
    pieces = pieces_of(tokenizer)
    shown = ""
    for place, token in enumerate(tokens):
        shown += pieces.put(token)
        # All that was ever shown begins the text of whatever tokens are still to come.
        assert tokenizer.decode(tokens).startswith(shown), place
    assert shown + pieces.end() == tokenizer.decode(tokens)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_character_is_shown_when_its_last_byte_is_there(name):
    tokenizer = TOKENIZERS[name]
    pieces, alphabet = pieces_of(tokenizer), bytes_of(tokenizer)
    tokens = [alphabet[byte] for byte in "é😀".encode()]
    shown = [pieces.put(token) for token in tokens] + [pieces.end()]
    assert "".join(shown) == "é😀"
    assert all("�" not in piece for piece in shown)
    if name == "byte level":  # the other kind of bytes may be spoilt by the next one
        assert shown == ["", "é", "", "", "", "😀", ""]


def run(text: str, stop: Sequence[str], size: int = 1) -> tuple[str, int, bool]:
    """Text, tokens taken, and whether a stop string ended it; tokens of ``size`` characters."""
    chunks = [text[i : i + size] for i in range(0, len(text), size)]
    pieces = TextPieces(lambda tokens: "".join(chunks[token] for token in tokens), stop=stop)
    shown, taken = "", 0
    for token in range(len(chunks)):
        shown += pieces.put(token)
        taken += 1
        assert not any(string in shown for string in stop)
        if pieces.stopped:
            break
    return shown + pieces.end(), taken, pieces.stopped


@settings(deadline=None)
@given(
    text=st.text("ab\n", max_size=30),
    stop=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    size=st.integers(1, 5),
)
def test_a_text_ends_before_the_stop_string_that_is_whole_first(text, stop, size):
    shown, taken, stopped = run(text, stop, size)
    for end in range(1, len(text) // size + 2):
        seen = text[: end * size]
        places = [seen.find(string) for string in stop if string in seen]
        if places:
            assert (shown, taken, stopped) == (text[: min(places)], end, True)
            return
    assert (shown, stopped) == (text, False)


def test_what_only_began_like_a_stop_string_is_shown():
    assert run("aab", ["ab!"])[0] == "aab"
    assert run("STOSTOP here", ["STOP"]) == ("STO", 7, True)


@pytest.mark.parametrize("stop", [[""], ["a", ""], [3]])
def test_stop_strings_must_be_some(stop):
    with pytest.raises(HivisError, match="^stop: wanted"):
        TextPieces(str, stop=stop)
