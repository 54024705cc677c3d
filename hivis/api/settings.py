"""Generation settings, by their names in transformers' ``GenerationConfig``.

Each field of it is either honored, harmless (it cannot change the output), or refused by name. No
setting of a model or a caller is ignored silently; a test checks that no field is missing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hivis.core.sampling import SamplingParams, is_number
from hivis.errors import HivisError, shorten

#: The default of ``max_new_tokens`` if neither the caller nor the model gives one.
MAX_NEW_TOKENS = 512
#: The top_k of transformers' ``generate`` for a model that samples and gives none.
SAMPLED_TOP_K = 50
#: The max_length that transformers writes when none is set.
UNSET_LENGTH = 20

HONORED = frozenset({
    "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
    "eos_token_id", "max_new_tokens", "max_length", "stop_strings",
})  # fmt: skip
#: Settings that only hivis has.
OWN = frozenset({"seed", "stop"})
HARMLESS = frozenset({
    # how the same output is computed
    "use_cache", "cache_config", "max_cache_len", "compile_config", "disable_compile",
    "continuous_batching_config", "low_memory", "prefill_chunk_size",
    # how it is drafted, which does not change the output
    "use_mtp", "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "prompt_lookup_num_tokens", "max_matching_ngram_size",
    "assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "speculation_type",
    # only with beams, which are refused
    "early_stopping", "length_penalty", "diversity_penalty",
    # only with encoders, padding or an empty prompt
    "decoder_start_token_id", "bos_token_id", "pad_token_id",
    # the same shift of all logits; and logits that are not finite, which raise an error anyway
    "renormalize_logits", "remove_invalid_values",
    # bookkeeping
    "return_dict_in_generate", "transformers_version", "_from_model_config",
})  # fmt: skip
#: The values with which the other settings have no effect, besides None and empty lists.
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
#: The same for settings that greedy decoding does not use.
NEUTRAL_SAMPLED: dict[str, tuple[Any, ...]] = {
    "typical_p": (1,),
    "top_h": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}
KNOWN = HONORED | HARMLESS | NEUTRAL.keys() | NEUTRAL_SAMPLED.keys()


@dataclass(frozen=True)
class Settings:
    """The resolved settings of an output: sampling, and the strings that end it."""

    params: SamplingParams
    stop: tuple[str, ...]


def resolve(
    model: Mapping[str, Any], given: Mapping[str, Any], rows: int, max_positions: int
) -> Settings:
    """Resolve each setting: the caller's value, otherwise the model's, otherwise no effect.

    A model that samples (``do_sample``) uses its own temperature, and transformers' default top_k
    of 50 if it gives none. If the caller gives a temperature for a model that does not sample,
    tokens are drawn from the whole distribution, or from the part that the model's top_k, top_p and
    min_p leave.

    Args:
        model: the fields of the model's ``GenerationConfig``.
        given: the caller's settings; ``None`` means not given. ``stop`` and ``seed`` are hivis's.
        rows: P, the rows of the prompt.
        max_positions: the positions that prompt and output may use together, for the default of
            ``max_new_tokens``.

    Raises:
        HivisError: a setting is unknown, cannot be reproduced, or is out of range.
    """
    given = {name: value for name, value in given.items() if value is not None}
    model = {name: value for name, value in model.items() if value is not None}
    for name in sorted(given.keys() - KNOWN - OWN):
        raise HivisError(f"{name}: wanted a generation setting, got an unknown name")
    temperature, plain = _temperature(model, given)
    sampled = is_number(temperature) and temperature > 0
    _refuse(model, given, NEUTRAL | NEUTRAL_SAMPLED if sampled else NEUTRAL)
    either = {**(model if sampled else {}), **given}
    params = SamplingParams(
        temperature=temperature,
        top_k=either.get("top_k", 0 if plain or not sampled else SAMPLED_TOP_K),
        top_p=either.get("top_p", 1.0),
        min_p=either.get("min_p", 0.0),
        repetition_penalty={**model, **given}.get("repetition_penalty", 1.0),
        seed=given.get("seed", 0),
        max_new_tokens=_limit(model, given, rows, max_positions),
        eos_token_ids=_eos_token_ids(given),
    )
    return Settings(params, _stop(model, given))


def _temperature(model: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Any, bool]:
    """The temperature, and whether transformers' default top_k for sampling does not apply."""
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
    """HivisError for a setting whose effect hivis does not reproduce."""
    for name, value in {**model, **given}.items():
        values = neutral.get(name, ())
        harmless = name in KNOWN | OWN and name not in neutral
        if harmless or value in values or value in ([], {}, (), ""):
            continue
        wanted = str(values[0]) if values else "none"
        where, advice = "", ""
        if name not in given:
            where = " in the model's generation_config"
            advice = f"; give {name}={values[0] if values else '[]'} to generate without it"
        raise HivisError(
            f"{name}: wanted {wanted}, since hivis cannot reproduce other values, "
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
    limit = model.get("max_new_tokens", MAX_NEW_TOKENS)
    max_length = model.get("max_length", UNSET_LENGTH)
    if max_length == UNSET_LENGTH:
        max_length = max_positions
    return max(1, min(limit, max_length - rows, max_positions - rows))


def _eos_token_ids(given: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The caller's EOS tokens; ``None`` to use the model's."""
    eos = given.get("eos_token_id")
    if eos is None:
        return None
    ids = tuple(eos) if isinstance(eos, Sequence) and not isinstance(eos, str) else (eos,)
    for token in ids:
        if not isinstance(token, int) or isinstance(token, bool):
            raise HivisError(f"eos_token_id: wanted token ids, got {token!r}")
    return ids


def _stop(model: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[str, ...]:
    if "stop" in given and "stop_strings" in given:
        raise HivisError("stop: wanted it or stop_strings, which mean the same, got both")
    stop = given.get("stop", given.get("stop_strings", model.get("stop_strings", ())))
    if isinstance(stop, str):
        stop = (stop,)
    if not isinstance(stop, Sequence) or not all(isinstance(s, str) and s for s in stop):
        raise HivisError(f"stop: wanted strings that are not empty, got {shorten(stop)}")
    return tuple(stop)
