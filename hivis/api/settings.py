"""Generation settings under their names in transformers' ``GenerationConfig``.

Each of its fields is honored, harmless (it cannot change the text), or refused by name: no
setting of a model or a caller is dropped in silence. A test checks that none is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hivis.core.sampling import SamplingParams, is_number
from hivis.errors import HivisError, shorten

#: New tokens of a text if neither the caller nor the model says how many.
MAX_NEW_TOKENS = 512
#: What ``generate`` of transformers takes for top_k where a model samples and does not say.
SAMPLED_TOP_K = 50
#: The max_length that transformers writes where nobody has set one.
UNSET_LENGTH = 20

HONORED = frozenset({
    "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
    "eos_token_id", "max_new_tokens", "max_length", "stop_strings",
})  # fmt: skip
#: Settings of hivis alone.
OWN = frozenset({"seed", "stop"})
HARMLESS = frozenset({
    # how the same text is computed
    "use_cache", "cache_config", "max_cache_len", "compile_config", "disable_compile",
    "continuous_batching_config", "low_memory", "prefill_chunk_size",
    # how it is drafted; no draft changes the text
    "use_mtp", "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "prompt_lookup_num_tokens", "max_matching_ngram_size",
    "assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "speculation_type",
    # only with beams, which are refused
    "early_stopping", "length_penalty", "diversity_penalty",
    # only with encoders, padding or a prompt of nothing
    "decoder_start_token_id", "bos_token_id", "pad_token_id",
    # the same shift of all logits; and logits that are not finite, which are an error anyway
    "renormalize_logits", "remove_invalid_values",
    # bookkeeping
    "return_dict_in_generate", "transformers_version", "_from_model_config",
})  # fmt: skip
#: The values with which the others do nothing; so do None and empty lists.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,), "num_beam_groups": (1,), "num_return_sequences": (1,),
    "constraints": (), "force_words_ids": (), "penalty_alpha": (0,), "dola_layers": (),
    "min_length": (0,), "min_new_tokens": (0,), "max_time": (),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,),
    "exponential_decay_length_penalty": (), "bad_words_ids": (), "suppress_tokens": (),
    "begin_suppress_tokens": (), "sequence_bias": (), "forced_bos_token_id": (),
    "forced_eos_token_id": (), "token_healing": (False,), "guidance_scale": (1,),
    "watermarking_config": (), "assistant_ensemble_weight": (),
    "cache_implementation": (
        "dynamic", "dynamic_full", "static", "hybrid", "sliding_window", "offloaded",
        "offloaded_static", "offloaded_hybrid", "paged",
    ),
    "output_attentions": (False,), "output_hidden_states": (False,), "output_scores": (False,),
    "output_logits": (False,),
}  # fmt: skip
#: The same, of settings that a greedy text does not look at.
NEUTRAL_SAMPLED: dict[str, tuple[Any, ...]] = {
    "typical_p": (1,),
    "top_h": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}
KNOWN = HONORED | HARMLESS | NEUTRAL.keys() | NEUTRAL_SAMPLED.keys()


@dataclass(frozen=True)
class Settings:
    """What a text is made with: how tokens are drawn, and the strings that end it."""

    params: SamplingParams
    stop: tuple[str, ...]


def resolve(
    model: Mapping[str, Any], given: Mapping[str, Any], rows: int, max_positions: int
) -> Settings:
    """The settings of a text: the caller's, else the model's, else those that do nothing.

    A model that samples (``do_sample``) does so at its own temperature, with the top_k of 50 that
    transformers gives it where it does not say. A temperature given for one that does not sample
    draws from the whole distribution, or from what the model's top_k, top_p and min_p leave of it.

    Args:
        model: the fields of the model's ``GenerationConfig``.
        given: the caller's; ``None`` is not given. ``stop`` and ``seed`` are hivis's own.
        rows: P, the rows of the prompt.
        max_positions: what prompt and new tokens have to fit, if their number is not given.

    Raises:
        HivisError: a setting that hivis does not know, cannot reproduce, or that is out of range.
    """
    given = {name: value for name, value in given.items() if value is not None}
    model = {name: value for name, value in model.items() if value is not None}
    for name in sorted(given.keys() - KNOWN - OWN):
        raise HivisError(f"{name}: wanted a generation setting, got an unknown name")
    temperature, whole = _temperature(model, given)
    sampled = is_number(temperature) and temperature > 0
    _refuse(model, given, NEUTRAL | NEUTRAL_SAMPLED if sampled else NEUTRAL)
    either = {**(model if sampled else {}), **given}
    params = SamplingParams(
        temperature=temperature,
        top_k=either.get("top_k", 0 if whole or not sampled else SAMPLED_TOP_K),
        top_p=either.get("top_p", 1.0),
        min_p=either.get("min_p", 0.0),
        repetition_penalty={**model, **given}.get("repetition_penalty", 1.0),
        seed=given.get("seed", 0),
        max_new_tokens=_limit(model, given, rows, max_positions),
        eos_token_ids=_ends(given),
    )
    return Settings(params, _stop(model, given))


def _temperature(model: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Any, bool]:
    """The temperature, and whether nothing asked for transformers' defaults of sampling."""
    samples = given.get("do_sample", model.get("do_sample", False))
    if not isinstance(samples, bool):
        raise HivisError(f"do_sample: wanted true or false, got {samples!r}")
    temperature = given.get("temperature", model.get("temperature", 1.0) if samples else 0.0)
    if "do_sample" in given and is_number(temperature) and samples != (temperature > 0):
        wanted = "a temperature above 0" if samples else "a temperature of 0, or none,"
        raise HivisError(f"do_sample: wanted {wanted} with {samples}, got {temperature}")
    return temperature, not samples


def _refuse(
    model: Mapping[str, Any], given: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]
) -> None:
    for name, value in {**model, **given}.items():
        values = neutral.get(name, ())
        harmless = name in KNOWN | OWN and name not in neutral
        if harmless or value in values or value in ([], {}, (), ""):
            continue
        wanted = str(values[0]) if values else "none"
        where, advice = "", ""
        if name not in given:
            where = " in the model's generation_config"
            advice = f"; give {name}={values[0] if values else '[]'} to do without it"
        raise HivisError(
            f"{name}: wanted {wanted}, for hivis cannot reproduce others, "
            f"got {shorten(value)}{where}{advice}"
        )


def _limit(
    model: Mapping[str, Any], given: Mapping[str, Any], rows: int, max_positions: int
) -> Any:
    if "max_new_tokens" in given:
        return given["max_new_tokens"]
    if "max_length" in given:
        length = given["max_length"]
        if not isinstance(length, int) or length <= rows:
            raise HivisError(f"max_length: wanted more than the prompt's {rows} rows, got {length}")
        return length - rows
    wanted = model.get("max_new_tokens", MAX_NEW_TOKENS)
    longest = model.get("max_length", UNSET_LENGTH)
    if longest == UNSET_LENGTH:
        longest = max_positions
    return max(1, min(wanted, longest - rows, max_positions - rows))


def _ends(given: Mapping[str, Any]) -> tuple[int, ...] | None:
    """``None``: the model's own."""
    ends = given.get("eos_token_id")
    if ends is None:
        return None
    ends = tuple(ends) if isinstance(ends, Sequence) and not isinstance(ends, str) else (ends,)
    for end in ends:
        if not isinstance(end, int) or isinstance(end, bool):
            raise HivisError(f"eos_token_id: wanted token ids, got {end!r}")
    return ends


def _stop(model: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[str, ...]:
    if "stop" in given and "stop_strings" in given:
        raise HivisError("stop: wanted it or stop_strings, which is the same, got both")
    stop = given.get("stop", given.get("stop_strings", model.get("stop_strings", ())))
    if isinstance(stop, str):
        stop = (stop,)
    if not isinstance(stop, Sequence) or not all(isinstance(s, str) and s for s in stop):
        raise HivisError(f"stop: wanted strings that are not empty, got {shorten(stop)}")
    return tuple(stop)
