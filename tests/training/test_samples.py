"""Captured answers on disk: every column comes back, lazily, and what is missing is said."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hivis.errors import HivisError
from hivis.training.data.samples import (
    Capture,
    Columns,
    batch_order,
    save_shard,
    shard_header,
    split,
)
from tests.helpers.training_samples import HIDDEN, toy_samples

ALL = Columns("all", images=True, seen=True)


def write(folder: Path, samples: list, columns: Columns, shard: int = 3) -> Path:
    for i in range(0, len(samples), shard):
        save_shard(folder / f"shard-{i // shard:05d}.safetensors", samples[i : i + shard], columns)
    return folder


def test_shards_round_trip(tmp_path: Path) -> None:
    samples = toy_samples(7, images=(1, 0, 2))
    capture = Capture(write(tmp_path, samples, ALL), ALL)
    assert len(capture) == 7 and capture.hidden_size == HIDDEN
    assert capture.lengths == [len(s) for s in samples]
    for i in (6, 0, 3, 2, 5, 1, 4):
        got, wanted = capture[i], samples[i]
        for name in ("tokens", "visual", "answer", "spans", "kept"):
            assert torch.equal(getattr(got, name), getattr(wanted, name)), name
        assert got.greedy == wanted.greedy and got.prompt_rows == wanted.prompt_rows
        assert torch.equal(got.hidden, wanted.hidden.bfloat16())
        if len(wanted.spans):
            assert torch.equal(got.images, wanted.images.bfloat16())
            assert torch.equal(got.seen, wanted.seen.bfloat16())
        else:
            assert got.images is None and got.seen is None
    assert [s.prompt_rows for s in capture[2:4]] == [10, 7]


def test_a_method_gets_what_it_asked_for_of_a_larger_capture(tmp_path: Path) -> None:
    write(tmp_path, toy_samples(3, images=(1,)), ALL)
    plain = Capture(tmp_path, Columns("text"))[0]
    assert plain.images is None and plain.seen is None and bool(plain.visual.any())
    assert Capture(tmp_path, Columns("edges", images=True))[0].images is not None


@pytest.mark.parametrize(
    ("kept", "needed"),
    [
        (Columns("text"), Columns("edges")),
        (Columns("edges"), Columns("all")),
        (Columns("all"), Columns("text", images=True)),
        (Columns("all", images=True), Columns("text", seen=True)),
    ],
)
def test_a_lacking_capture_is_refused(tmp_path: Path, kept: Columns, needed: Columns) -> None:
    assert not kept.covers(needed) and ALL.covers(needed)
    write(tmp_path, toy_samples(2, images=(1,)), kept)
    with pytest.raises(HivisError, match="wanted a capture of"):
        Capture(tmp_path, needed)


def test_hidden_states_of_kept_rows(tmp_path: Path) -> None:
    (whole,) = toy_samples(1, images=(2,))
    for columns, rows in ((Columns("text"), [0, 7, 8]), (Columns("edges"), [0, 3, 6, 7, 8])):
        kept = columns.keeps(whole.visual, whole.spans)
        assert kept[:9].nonzero().flatten().tolist() == rows
        sample = replace(whole, kept=kept, hidden=whole.hidden[kept])
        asked = torch.tensor([8, 1, 0, 3])
        wanted = whole.hidden[asked] * kept[asked].unsqueeze(1)
        assert torch.equal(sample.hidden_at(asked), wanted)
    assert bool(Columns("all").keeps(whole.visual, whole.spans).all())


def test_what_is_no_capture(tmp_path: Path) -> None:
    with pytest.raises(HivisError, match="got none"):
        Capture(tmp_path / "nowhere", Columns())
    shard = tmp_path / "shard-00000.safetensors"
    shard.write_bytes(b"\x10" * 40)
    with pytest.raises(HivisError, match="readable shard"):
        Capture(tmp_path, Columns())
    save_shard(shard, toy_samples(2), Columns(), {"next": 5})
    assert shard_header(shard)["note"] == {"next": 5}
    (tmp_path / "shard-00001.safetensors.part").write_bytes(b"half of it")
    assert len(Capture(tmp_path, Columns())) == 2


def rename_to_pictures(columns: dict, tensors: dict) -> None:
    """What a capture was before its column of images had that name."""
    columns["pictures"] = columns.pop("images")
    tensors["pictures"] = tensors.pop("images")


def other_hidden(columns: dict, tensors: dict) -> None:
    columns["hidden"] = "some"


def without(name: str):
    return lambda columns, tensors: tensors.pop(name)


def cut_hidden(columns: dict, tensors: dict) -> None:
    tensors["hidden"] = tensors["hidden"][:-1].clone()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            rename_to_pictures,
            "wanted a shard with the columns hidden, images, seen, got .*pictures",
        ),
        (other_hidden, "wanted a shard with the columns hidden, images, seen, got .*some"),
        (without("images"), "wanted a complete shard, got: .*images"),
        (without("seen"), "wanted a complete shard, got: .*seen"),
        (without("kept"), "wanted a complete shard, got: .*kept"),
        (without("greedy"), "wanted a complete shard, got: .*greedy"),
        (without("rows_of"), "wanted a complete shard, got: .*rows_of"),
        (cut_hidden, r"hidden: wanted \d+ entries, got \d+"),
    ],
)
def test_an_incomplete_shard_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    """All of it when the capture is opened, before anything is trained on half of it."""
    write(tmp_path, toy_samples(3, images=(1, 0, 2)), ALL)
    shard = tmp_path / "shard-00000.safetensors"
    header, tensors = shard_header(shard), load_file(shard)
    change(header["columns"], tensors)
    save_file(tensors, shard, metadata={"capture": json.dumps(header)})
    with pytest.raises(HivisError, match=f"^{re.escape(str(shard))}: {message}") as error:
        Capture(tmp_path, ALL)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("header", ["[]", "{}", '{"columns": 3, "note": {}}', "no JSON"])
def test_what_is_no_header_of_a_shard(tmp_path: Path, header: str) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "shard-00000.safetensors", {"capture": header})
    with pytest.raises(HivisError, match="wanted a readable shard of captured data, got "):
        Capture(tmp_path, Columns())


@given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(1, 20), st.integers())
def test_an_epoch_holds_every_sample_once(lengths: list[int], size: int, seed: int) -> None:
    groups = batch_order(lengths, size, seed)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    # As many batches as there are updates in an epoch: the loop counts on it.
    assert len(groups) == -(-len(lengths) // size) and max(map(len, groups)) <= size
    assert groups == batch_order(lengths, size, seed)


def test_held_out_samples_are_not_trained_on() -> None:
    single = list(range(21))
    training, held_out = split(single, 4, 0)
    assert sorted(training + held_out) == single and len(held_out) == 4
    assert len(split(single, 100, 0)[1]) == 4 and split(single, 4, 1) != (training, held_out)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=100), st.integers(1, 30), st.integers())
def test_conversations_are_held_out_whole(of: list[int], count: int, seed: int) -> None:
    training, held_out = split(of, count, seed)
    assert sorted(training + held_out) == list(range(len(of)))
    assert not {of[i] for i in training} & {of[i] for i in held_out}
    assert len(held_out) <= min(count, len(of) // 5)
