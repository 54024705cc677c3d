"""Every generation setting is honored, harmless, or refused by its name."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from hivis.api.settings import (
    HARMLESS,
    HONORED,
    MAX_NEW_TOKENS,
    NEUTRAL,
    NEUTRAL_SAMPLED,
    OWN,
    resolve,
)
from hivis.core.sampling import SamplingParams
from hivis.errors import HivisError
from hivis.models.generation_config import generation_fields, generation_settings

#: A value with which each setting that is refused would change the text.
TELLING = {
    "num_beams": 4, "num_beam_groups": 2, "num_return_sequences": 2, "constraints": [object()],
    "force_words_ids": [[3]], "penalty_alpha": 0.6, "dola_layers": "high", "min_length": 9,
    "min_new_tokens": 5, "max_time": 1.5,
    "encoder_repetition_penalty": 1.1, "no_repeat_ngram_size": 3,
    "encoder_no_repeat_ngram_size": 3, "exponential_decay_length_penalty": (5, 1.1),
    "bad_words_ids": [[7]], "suppress_tokens": [7], "begin_suppress_tokens": [7],
    "sequence_bias": [[[7], 2.0]], "forced_bos_token_id": 4, "forced_eos_token_id": 2,
    "token_healing": True, "guidance_scale": 1.5, "watermarking_config": {"bias": 2.0},
    "assistant_ensemble_weight": 0.5, "cache_implementation": "quantized",
    "output_attentions": True, "output_hidden_states": True, "output_scores": True,
    "output_logits": True, "typical_p": 0.9, "top_h": 0.4, "epsilon_cutoff": 3e-4,
    "eta_cutoff": 3e-4,
}  # fmt: skip


def params(model=None, rows=10, positions=2048, **given) -> SamplingParams:
    return resolve(model or {}, given, rows, positions).params


def test_every_field_of_transformers_is_sorted():
    """A field that a new transformers brings has to be thought about, and put into one of these."""
    groups = [HONORED, HARMLESS, NEUTRAL.keys(), NEUTRAL_SAMPLED.keys()]
    sorted_in = [name for group in groups for name in group]
    assert len(sorted_in) == len(set(sorted_in))
    missing = generation_fields() - set(sorted_in)
    assert not missing, f"neither honored nor harmless nor refused: {missing}"
    assert not OWN & generation_fields()
    assert TELLING.keys() == NEUTRAL.keys() | NEUTRAL_SAMPLED.keys()


@pytest.mark.parametrize("name", TELLING)
@pytest.mark.parametrize("by", ["the caller", "the model"])
def test_what_cannot_be_reproduced_is_refused_by_name(name, by):
    entry = {name: TELLING[name]}
    sampled = {"temperature": 0.7}
    with pytest.raises(HivisError) as error:
        params(entry, **sampled) if by == "the model" else params(**entry, **sampled)
    message = str(error.value)
    assert message.startswith(f"{name}: wanted ") and ", got " in message and "\n" not in message
    assert ("generation_config" in message) == (by == "the model")


@pytest.mark.parametrize("name", TELLING)
def test_the_caller_can_do_without_a_setting_of_the_model(name):
    neutral = {**NEUTRAL, **NEUTRAL_SAMPLED}[name]
    value = neutral[0] if neutral else []
    assert params({name: TELLING[name]}, temperature=0.7, **{name: value}).temperature == 0.7


@pytest.mark.parametrize("name", NEUTRAL_SAMPLED)
def test_greedy_texts_do_not_care_how_others_are_sampled(name):
    assert params({name: TELLING[name]}) == params()


def test_the_defaults_that_transformers_writes_are_taken():
    defaults = GenerationConfig._get_default_generation_params()
    assert params(defaults) == params()
    assert params({**defaults, "do_sample": True}, temperature=1.0).top_k == 50


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_harmless_settings_are_taken(name):
    assert params({name: 3}, **{name: 5}) == params()


def test_a_model_that_samples_sets_the_defaults():
    qwen = {"do_sample": True, "temperature": 0.1, "top_p": 0.001, "top_k": 1, "min_p": 0.02}
    got = params(qwen)
    assert (got.temperature, got.top_p, got.top_k, got.min_p) == (0.1, 0.001, 1, 0.02)
    assert params(qwen, temperature=0) == params()
    assert params(qwen, do_sample=False) == params()
    assert params(qwen, top_k=0, top_p=1.0).top_k == 0
    assert params({"do_sample": True}).temperature == 1.0
    assert params({"do_sample": True}).top_k == 50  # as generate() has it


def test_a_model_that_does_not_sample():
    model = {"temperature": 0.2, "top_p": 0.9}
    assert params(model) == params()
    assert params(model, temperature=1.0) == SamplingParams(
        temperature=1.0, top_p=0.9, max_new_tokens=MAX_NEW_TOKENS
    )
    assert params({}, do_sample=True).top_k == 50
    assert params(temperature=1.0).top_k == 0


@pytest.mark.parametrize(
    ("model", "given", "limit"),
    [
        ({}, {}, 512),
        ({"max_new_tokens": 30}, {}, 30),
        ({"max_length": 50}, {}, 40),
        ({"max_new_tokens": 30, "max_length": 12}, {}, 2),
        ({"max_length": 4096}, {}, 512),
        ({"max_new_tokens": 30}, {"max_new_tokens": 70}, 70),
        ({}, {"max_length": 15}, 5),
        ({"max_new_tokens": 9000}, {}, 2038),
        ({"max_length": 3}, {}, 1),
    ],
)
def test_the_limit(model, given, limit):
    assert params(model, **given).max_new_tokens == limit


def test_ends():
    assert params().eos_token_ids is None
    assert params(eos_token_id=5).eos_token_ids == (5,)
    assert params(eos_token_id=[5, 6]).eos_token_ids == (5, 6)
    assert params(eos_token_id=()).eos_token_ids == ()
    assert resolve({}, {"stop": "a"}, 1, 9).stop == ("a",)
    assert resolve({"stop_strings": ["a", "b"]}, {}, 1, 9).stop == ("a", "b")
    assert resolve({"stop_strings": ["a"]}, {"stop": ()}, 1, 9).stop == ()


@pytest.mark.parametrize(
    "given",
    [
        {"temprature": 1.0}, {"do_sample": "yes"}, {"do_sample": True, "temperature": 0},
        {"do_sample": False, "temperature": 0.5}, {"max_length": 10}, {"max_length": "9"},
        {"eos_token_id": "x"}, {"eos_token_id": [True]}, {"stop": ""}, {"stop": ["a", 3]},
        {"stop": 3}, {"temperature": "warm"}, {"top_k": -1}, {"seed": 0.5},
        {"max_new_tokens": 0},
    ],
    ids=str,
)  # fmt: skip
def test_bad_settings_are_named(given):
    name = list(given)[0]
    with pytest.raises(HivisError, match=f"^{name}: wanted .*, got "):
        params(**given)
    with pytest.raises(HivisError, match="^stop: wanted it or stop_strings"):
        params(stop="a", stop_strings="b")


def test_the_settings_of_a_model_are_those_that_transformers_knows():
    class Model:
        generation_config = GenerationConfig(top_k=7, chat_format="chatml")

    found = generation_settings(Model())  # type: ignore[arg-type]
    assert found["top_k"] == 7 and "chat_format" not in found
