"""Draft vocabularies: fewer tokens are drafted, at their own ids, and the text stays what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import hivis
from hivis.bundled import paths
from hivis.cli.main import main
from hivis.core.handoff import DrafterPrompt
from hivis.core.kv_cache import KVCache
from hivis.core.sampling import SamplingParams, SamplingState
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters.checkpoint import HiViSConfig, random_tensors
from hivis.drafters.draft_vocab import (
    DRAFT_VOCAB_FILE,
    DraftVocab,
    read_draft_vocab,
    save_draft_vocab,
)
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.load import load_drafter
from hivis.drafters.one_layer import OneLayerDrafter
from hivis.engine.batch import Batch
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.errors import HivisError
from hivis.models.eos import eos_of_files
from hivis.policies.fixed import FixedPolicy
from hivis.training.data.files import SETTINGS_FILE, fingerprint
from hivis.training.data.samples import Columns, save_shard
from hivis.training.data.token_counts import count_tokens, rank_tokens
from tests.helpers.batch_requests import alone, request_of
from tests.helpers.captured_cycles import PROMPTS, TREE, OnGpu, all_plainly, parts, roomy
from tests.helpers.captured_cycles import SAMPLING as GRAPHED
from tests.helpers.small_drafters import SIZES, check_sequences, pair
from tests.helpers.small_llava import VOCAB, random_inputs
from tests.helpers.training_samples import VOCAB as TOY_VOCAB
from tests.helpers.training_samples import toy_samples

pytestmark = pytest.mark.whole_models


def some_ids(count: int, seed: int = 0) -> Tensor:
    return torch.randperm(VOCAB, generator=torch.Generator().manual_seed(seed))[:count]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("weights", ["full", "int4-32"])
@pytest.mark.parametrize("kind", ["hivis", "vispec"])
def test_the_text_is_the_plain_text(kind: str, weights: str, temperature: float) -> None:
    target, drafter = pair(kind)
    assert isinstance(drafter, OneLayerDrafter)
    drafter.quantize(weights, some_ids(60))
    check_sequences(target, drafter, temperature, f"{kind} {weights} {temperature}")


def test_so_are_those_of_a_batch_of_three() -> None:
    """With penalties among them, which are taken off the drafter's logits as well."""
    target, drafter = pair("hivis")
    assert isinstance(drafter, OneLayerDrafter)
    drafter.quantize("full", some_ids(40))
    policy = FixedPolicy(nodes=10, depth=4, top_k=3)
    for number, generation in Batch(Engine(target, drafter, policy), map(request_of, range(9)), 3):
        assert generation.tokens == alone(number), number


@pytest.mark.parametrize("sampling", GRAPHED)
@pytest.mark.parametrize("kind", ["hivis", "vispec"])
@pytest.mark.parametrize("weights", ["int8", "int4-32"])
def test_a_cycle_of_a_quantized_drafter_can_be_captured(
    weights: str, kind: str, sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a draft vocabulary, whose rows are written and never filled again."""
    params = GRAPHED[sampling]

    def texts() -> list[tuple[Any, ...]]:
        target, drafter = pair(kind)
        assert isinstance(drafter, OneLayerDrafter)
        drafter.quantize(weights, some_ids(60))
        roomy(target, drafter)
        return [
            parts(generate(Engine(target, drafter, TREE), inputs, params)) for inputs in PROMPTS
        ]

    before, wanted = texts(), all_plainly(params)
    gpu = OnGpu(monkeypatch)
    after = texts()
    assert [text[0] for text in after] == wanted
    assert after == before and gpu.capturer.replayed > len(PROMPTS)


def grown(drafter: OneLayerDrafter, temperature: float) -> Any:
    """A tree of three texts, and one more after it."""
    make = torch.Generator().manual_seed(5)
    hidden = torch.randn(3, 8, 64, generator=make)
    drafter.prefill(DrafterPrompt(hidden, hidden, 8), torch.tensor([4, 9, 200]), 90)
    params = SamplingParams(temperature=temperature, seed=3)
    sampling = SamplingState.of(params, 3, "cpu")
    plan = GrowthPlan(TreeShape(nodes=24, depth=4, top_k=5))
    token, position = torch.tensor([4, 9, 200]), torch.tensor([8, 8, 8])
    return [drafter.grow(token + step, position + step, sampling, plan) for step in (0, 1)]


class Masked(HiViSDrafter):
    """What a draft vocabulary is: the whole one, and -inf where a token is not listed."""

    ids: Tensor

    def _predict(self, output: Tensor) -> Tensor:
        logits = super()._predict(output)
        hidden = torch.ones(VOCAB, dtype=torch.bool)
        hidden[self.ids] = False
        return logits.masked_fill(hidden, -torch.inf)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("count", [5, 60, VOCAB])
def test_a_tree_is_that_of_masked_logits(count: int, temperature: float) -> None:
    """Tokens, parents and noise are those of the ids that the rows stand for."""
    config = HiViSConfig(**SIZES)
    make = torch.Generator().manual_seed(2)
    tables = [torch.randn(VOCAB, 64, generator=make) for _ in range(2)]
    ids = some_ids(count, seed=count)
    short, masked = (
        kind(config, random_tensors(config, 1, 0.2)) for kind in (HiViSDrafter, Masked)
    )
    short.quantize("full", ids)
    masked.ids = ids
    for drafter in (short, masked):
        drafter.bind(*tables)
    for ours, theirs in zip(grown(short, temperature), grown(masked, temperature), strict=True):
        assert torch.equal(ours.tokens, theirs.tokens)
        assert torch.equal(ours.parents, theirs.parents)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-4)
        assert torch.isin(ours.tokens[:, 1:], ids).all()


def test_rows_hold_what_was_written_last() -> None:
    ids = torch.tensor([7, 0, 3])
    head, cache = DraftVocab(ids, 9), KVCache(1, 2, 1, 4, 8, torch.float32, "cpu")
    for shape in ((2, 3), (2, 4, 3), (2, 3)):
        logits = torch.randn(shape)
        rows = head.widen(logits, cache)
        assert rows.shape == (*shape[:-1], 9) and torch.equal(rows[..., ids], logits)
        others = [token for token in range(9) if token not in ids]
        assert (rows[..., others] == -torch.inf).all()


def test_the_head_is_as_small_as_its_list(tmp_path: Path) -> None:
    drafter = load_drafter(paths.HIVIS, draft_vocab=256)
    table = torch.randn(drafter.config.vocab_size, drafter.config.hidden_size)
    drafter.bind(table, table)
    assert drafter._m["head"].nbytes == 256 * drafter.config.hidden_size * 4
    drafter.save(tmp_path)  # its own weights are as they were
    assert load_drafter(tmp_path).draft_vocab is None
    low = load_drafter(paths.HIVIS, weights="int8", draft_vocab=256)
    low.bind(table, table)
    assert low._m["head"].nbytes == 256 * (drafter.config.hidden_size + 2)


@pytest.mark.parametrize("draft_vocab", [256, 1024])
def test_the_bundled_drafter_with_a_draft_vocabulary(draft_vocab: int) -> None:
    image = paths.EVAL / "scene00.png"
    model = hivis.load(dtype="float32", device="cpu", policy="fixed", draft_vocab=draft_vocab)
    plain = hivis.load(dtype="float32", device="cpu", drafter="none")
    for temperature in (0.0, 1.0):
        settings: dict[str, Any] = {"max_new_tokens": 40, "temperature": temperature, "seed": 2}
        ours = model.generate("Describe this image in detail.", image, **settings)
        theirs = plain.generate("Describe this image in detail.", image, **settings)
        assert ours.tokens == theirs.tokens
        assert sum(ours.statistics.accepted_lengths) > len(ours.statistics.accepted_lengths)


@pytest.mark.parametrize("folder", [paths.HIVIS, paths.VISPEC, paths.EAGLE])
def test_the_lists_that_ship(folder: Path) -> None:
    """Of one target, which ends its texts with token 2."""
    ids = read_draft_vocab(folder / DRAFT_VOCAB_FILE)
    assert torch.equal(ids, read_draft_vocab(paths.HIVIS / DRAFT_VOCAB_FILE))
    assert ids[0] == 2 and eos_of_files(paths.TARGET) == (2,)
    load_drafter(folder, draft_vocab=len(ids))


# The list


def test_tokens_are_counted_in_answers_alone() -> None:
    samples = toy_samples(5, images=(1, 0))
    counts = count_tokens(samples, TOY_VOCAB)
    said = [int(t) for s in samples for t, a in zip(s.tokens, s.answer, strict=True) if a]
    assert counts.tolist() == [said.count(token) for token in range(TOY_VOCAB)]
    with pytest.raises(HivisError, match=f"wanted tokens below {max(said)}, got {max(said)}"):
        count_tokens(samples, max(said))


def test_tokens_are_ranked() -> None:
    counts = torch.tensor([4, 0, 9, 9, 1, 0])
    assert rank_tokens(counts, []).tolist() == [2, 3, 0, 4]
    assert rank_tokens(counts, [1, 3, 1, 99]).tolist() == [1, 3, 2, 0, 4]


def test_what_ends_a_text(tmp_path: Path) -> None:
    assert eos_of_files(tmp_path) == ()
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"eos_token_id": [5, 6]}}))
    assert eos_of_files(tmp_path) == (5, 6)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert eos_of_files(tmp_path) == (7,)


def captured(folder: Path, target: str) -> Path:
    folder.mkdir()
    save_shard(folder / "shard-00000.safetensors", toy_samples(6), Columns())
    (folder / SETTINGS_FILE).write_text(json.dumps({"prompts": 9, "sources": {"target": target}}))
    return folder


def test_the_command_writes_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = captured(tmp_path / "answers", fingerprint(paths.TARGET))
    drafter = tmp_path / "drafter"
    drafter.mkdir()
    for out in (drafter, tmp_path / "ids.safetensors"):
        main(["draft-vocab", "--target", str(paths.TARGET), "--data", str(data), "--out", str(out)])
    ids = read_draft_vocab(drafter / DRAFT_VOCAB_FILE)
    assert torch.equal(ids, read_draft_vocab(tmp_path / "ids.safetensors"))
    counts = count_tokens(toy_samples(6), TOY_VOCAB)
    assert torch.equal(ids, rank_tokens(counts, [2]))
    wanted = f"{len(ids)} different tokens, counted in 6 answers of {int(counts.sum())} tokens"
    assert wanted in capsys.readouterr().out


def test_what_the_command_refuses(tmp_path: Path) -> None:
    other = captured(tmp_path / "other", "another")
    ours = captured(tmp_path / "ours", fingerprint(paths.TARGET))
    command = ["draft-vocab", "--target", str(paths.TARGET), "--out"]
    with pytest.raises(HivisError, match="wanted answers of the target .*, got answers of another"):
        main([*command, str(tmp_path), "--data", str(other)])
    with pytest.raises(HivisError, match="wanted the settings of a capture"):
        main([*command, str(tmp_path), "--data", str(tmp_path)])
    with pytest.raises(HivisError, match="--out: wanted a file that can be written, got") as error:
        main([*command, str(tmp_path / "no" / "ids.safetensors"), "--data", str(ours)])
    assert "\n" not in str(error.value)


BAD_LISTS = {
    "beyond the vocabulary": (torch.tensor([1, 2688]), "wanted tokens of 0 to 2687, got 2688"),
    "below 0": (torch.tensor([1, -1]), "wanted tokens of 0 to 2687, got -1"),
    "twice": (torch.tensor([5, 4, 5]), "wanted every token once, got 5 twice"),
    "empty": (torch.zeros(0, dtype=torch.int64), r"wanted \[n\] int64, got \[0\]"),
    "floats": (torch.tensor([1.0]), r"wanted \[n\] int64, got \[1\] torch.float32"),
    "a table": (torch.zeros(2, 2, dtype=torch.int64), r"wanted \[n\] int64, got \[2, 2\]"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_a_bad_list_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    ids, message = BAD_LISTS[case]
    path = tmp_path / "ids.safetensors"
    save_draft_vocab(path, ids)
    with pytest.raises(HivisError, match=message) as error:
        load_drafter(paths.HIVIS, draft_vocab=path)
    assert "\n" not in str(error.value)


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"ids": torch.tensor([1])}, path)
    with pytest.raises(HivisError, match="head_ids: wanted .*, got none"):
        load_drafter(paths.HIVIS, draft_vocab=path)
    with pytest.raises(HivisError, match="wanted a number or a file, got"):
        load_drafter(paths.HIVIS, draft_vocab=tmp_path)
    path.write_bytes(b"x" * 99)
    with pytest.raises(HivisError, match="wanted a safetensors file"):
        load_drafter(paths.HIVIS, draft_vocab=str(path))


@pytest.mark.parametrize("draft_vocab", [0, -3, 1062])
def test_a_number_must_be_in_the_list(draft_vocab: int) -> None:
    with pytest.raises(HivisError, match="draft vocabulary: wanted 1 to 1061 tokens .*, got"):
        load_drafter(paths.HIVIS, draft_vocab=draft_vocab)


def test_a_drafter_without_a_list_says_where_one_comes_from(tmp_path: Path) -> None:
    config = HiViSConfig(**SIZES)
    HiViSDrafter(config, random_tensors(config, seed=1)).save(tmp_path)
    with pytest.raises(HivisError, match=r"hivis draft-vocab counts one\), got no such file"):
        load_drafter(tmp_path, draft_vocab=10)


def test_drafters_that_have_no_head_of_their_own_are_refused() -> None:
    with pytest.raises(HivisError, match="or a draft vocabulary, got Spec-LLaVA at"):
        hivis.load(drafter=paths.DRAFT_VLM, draft_vocab=100, device="cpu")
    with pytest.raises(HivisError, match="by its folder, for a number"):
        hivis.load(drafter=load_drafter(paths.HIVIS), draft_vocab=100, device="cpu")
    given = load_drafter(paths.HIVIS)
    hivis.load(drafter=given, draft_vocab=paths.HIVIS / DRAFT_VOCAB_FILE, device="cpu")
    assert given.draft_vocab is not None and len(given.draft_vocab) == 1061


def test_a_tree_wider_than_the_head_is_refused() -> None:
    target, drafter = pair("hivis")
    assert isinstance(drafter, OneLayerDrafter)
    drafter.quantize("full", some_ids(3))
    with pytest.raises(HivisError, match="top_k of the tree: wanted at most the vocabulary, 3"):
        generate(Engine(target, drafter, FixedPolicy(8, 2, 4)), random_inputs(0), SamplingParams())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"draft_vocab": 3.5}, "draft vocabulary: wanted a number of tokens or a file, got 3.5"),
        ({"draft_vocab": True}, "draft vocabulary: wanted a number of tokens or a file, got True"),
        ({"draft_vocab": 0}, "draft vocabulary: wanted a number of tokens or a file, got 0"),
        ({"draft_vocab": [1, 2]}, "draft vocabulary: wanted a number of tokens or a file"),
        ({"drafter": "none", "draft_vocab": 9}, "drafter: wanted one for quantized weights"),
        (
            {"drafter": "none", "drafter_weights": "int8"},
            "drafter: wanted one for quantized weights",
        ),
        ({"drafter_weights": ["int8"]}, "drafter weights: wanted one of full"),
        ({"drafter_weights": None}, "drafter weights: wanted one of full"),
        ({"graphs": "yes"}, "graphs: wanted True, False or None, got 'yes'"),
        ({"graphs": 0}, "graphs: wanted True, False or None, got 0"),
        ({"compile": "no"}, "compile: wanted True or False, got 'no'"),
    ],
)
def test_what_load_takes_is_looked_at_before_anything_is_loaded(monkeypatch, given, says):
    monkeypatch.setattr("hivis.api.load.load_target", lambda *_: pytest.fail("loaded"))
    with pytest.raises(HivisError) as error:
        hivis.load(device="cpu", **given)
    assert says in str(error.value)


def test_a_head_shorter_than_a_nodes_children_is_refused_at_once():
    with pytest.raises(HivisError, match="draft vocabulary: wanted at least 4 tokens.*, got 3$"):
        hivis.load(device="cpu", draft_vocab=3)
