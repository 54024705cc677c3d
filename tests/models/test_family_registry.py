"""A family of models from outside the package works like one of our own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel

import hivis
from hivis.bundled import paths
from hivis.errors import HivisError
from hivis.models.drafter_sizes import sizes_of
from hivis.models.families.base import Family
from hivis.models.families.registry import FAMILIES, families, family_of, register_family
from hivis.models.load import load_model
from hivis.models.processor import PromptProcessor

QUESTION, IMAGE = "What does the sign say?", paths.EVAL / "scene00.png"


class ToyConfig(LlavaConfig):
    model_type = "toy_vlm"


class ToyModel(LlavaForConditionalGeneration):
    """A LLaVA under another name, as a model that hivis has never heard of."""

    config_class = ToyConfig


class Toy(Family):
    """Written from nothing but the model's own functions."""

    model_types = ("toy_vlm",)
    attention_bias = True
    hiding = {"positions": "original", "hide_after": 1}

    def look(self, model: PreTrainedModel, features: Mapping[str, Tensor]) -> Tensor | None:
        pixels = features.get("pixel_values")
        if pixels is None:
            return None
        return torch.cat(list(model.model.get_image_features(pixels).pooler_output))

    def image_rows(
        self, model: PreTrainedModel, tokens: Tensor, features: Mapping[str, Tensor]
    ) -> list[int]:
        images = len(features["pixel_values"])
        return [int((tokens == model.config.image_token_id).sum()) // images] * images


@pytest.fixture
def own_families(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(FAMILIES, "_records", dict(FAMILIES._records))
    yield


@pytest.fixture(scope="module")
def toy() -> ToyModel:
    ours = load_model(paths.TARGET)
    model = ToyModel(ToyConfig(**ours.config.to_dict() | {"model_type": "toy_vlm"}))
    model.load_state_dict(ours.state_dict())
    model.generation_config = ours.generation_config
    return model.eval()


def test_a_family_from_outside_is_decoded(own_families: None, toy: ToyModel) -> None:
    processor = PromptProcessor.load(paths.TARGET, load_model(paths.TARGET)).processor
    with pytest.raises(HivisError, match="^model type: wanted one of llava, .*, got toy_vlm"):
        hivis.wrap(toy, processor=processor)
    family = Toy()
    register_family(family)
    register_family(family)  # the same once more is nothing new
    assert families()[-1] is family is family_of("toy_vlm")
    ours = hivis.load(dtype="float32", device="cpu", policy="fixed")
    settings = {"temperature": 1.0, "seed": 5, "max_new_tokens": 40}
    wanted = ours.generate(QUESTION, IMAGE, **settings)
    for drafter in (paths.HIVIS, paths.VISPEC, None):
        made = hivis.wrap(toy, drafter, processor, policy="fixed").generate(
            QUESTION, IMAGE, **settings
        )
        assert made.tokens == wanted.tokens
        if drafter == paths.HIVIS:
            assert made.statistics.accepted_lengths == wanted.statistics.accepted_lengths


def test_a_family_says_what_drafters_for_it_are_like(own_families: None, toy: ToyModel) -> None:
    register_family(Toy())
    sizes = sizes_of(toy.config)
    assert sizes.layer["attention_bias"] is True and sizes.hiding == Toy.hiding
    assert sizes.published_hiding == {}


def test_a_type_is_served_by_one_family(own_families: None) -> None:
    class Another(Toy):
        model_types = ("another", "llava")

    with pytest.raises(HivisError, match="^model family: wanted types .*, got llava"):
        register_family(Another())
