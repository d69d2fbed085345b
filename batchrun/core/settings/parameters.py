"""Which keys of a row are chat-completion parameters, and which are the user's data.

A row that is itself a chat body mixes both: ``{"messages": [...], "temperature": 0, "ticket": 7}``.
Keys in ``SENT`` go to the server, every other key is carried to the results. The first table is
the specification's (openai-openapi 2.3.0, ``CreateChatCompletionRequest``); the others are
extensions read from the servers' own sources, which those servers take at the top level of the
body. Values are never checked against a range or an enumeration: servers disagree and grow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SPECIFIED = frozenset(
    """
    messages model temperature top_p n max_tokens max_completion_tokens stop stream stream_options
    presence_penalty frequency_penalty logit_bias logprobs top_logprobs seed user safety_identifier
    prompt_cache_key prompt_cache_retention prompt_cache_options tools tool_choice
    parallel_tool_calls functions function_call response_format reasoning_effort verbosity
    modalities audio prediction metadata store service_tier web_search_options moderation
    """.split()
)

VLLM = frozenset(
    """
    top_k min_p repetition_penalty length_penalty use_beam_search stop_token_ids
    include_stop_str_in_output ignore_eos min_tokens skip_special_tokens
    spaces_between_special_tokens truncate_prompt_tokens truncation_side prompt_logprobs
    allowed_token_ids bad_words logprob_token_ids echo add_generation_prompt
    continue_final_message add_special_tokens documents chat_template chat_template_kwargs
    mm_processor_kwargs media_io_kwargs structured_outputs priority request_id session_id
    cache_salt include_reasoning thinking_token_budget return_token_ids return_prompt_text
    kv_transfer_params vllm_xargs stream_interval repetition_detection guided_json guided_regex
    guided_choice guided_grammar
    """.split()
)

SGLANG = frozenset(
    """
    top_k min_p min_tokens regex ebnf repetition_penalty stop_token_ids stop_regex no_stop_trim
    ignore_eos lora_path session_params separate_reasoning stream_reasoning chat_template_kwargs
    thinking rid extra_key cache_salt priority data_parallel_rank
    """.split()
)

# `grammar`, `json_schema` and `lora` are left out: data sets have columns of these names, and what
# stands under `extra_body` is sent whatever it is called. So it is with other names of columns:
# Groq's `country`, OpenRouter's `route`.
LLAMA_CPP = frozenset(
    """
    top_k min_p reasoning_format reasoning_control timings_per_token cache_prompt
    dynatemp_range dynatemp_exponent typical_p top_n_sigma xtc_probability xtc_threshold
    repeat_penalty repeat_last_n dry_multiplier dry_base dry_allowed_length dry_penalty_last_n
    dry_sequence_breakers mirostat mirostat_tau mirostat_eta samplers min_keep n_predict n_keep
    n_probs n_discard n_indent id_slot post_sampling_probs return_tokens return_progress
    t_max_predict_ms
    """.split()
)

OTHERS = frozenset(
    """
    enable_thinking thinking_budget provider models transforms reasoning usage plugins top_a
    reasoning_format include_reasoning search_settings citation_options disable_tool_validation
    compound_custom exclude_domains include_domains
    context_length_exceeded_behavior safety_model
    random_seed safe_prompt prompt_mode guardrails top_prompt_logprobs
    """.split()
)
"""DeepSeek, Qwen and GLM; OpenRouter; Groq (groq 1.7.0); Together (together 3.1.1); Mistral
(mistralai 3.7.0)."""

GROUPS: Mapping[str, frozenset[str]] = {
    "the specification": SPECIFIED,
    "vLLM": VLLM,
    "SGLang": SGLANG,
    "llama.cpp": LLAMA_CPP,
    "other servers": OTHERS,
}
"""The parameters by where they are specified."""

SENT = frozenset().union(*GROUPS.values())

# Parameters whose value is an array or an object. A table's text column under one of these names
# holds JSON; `stop` and `tool_choice` may be plain words, so only text that opens like JSON counts.
STRUCTURED = frozenset(
    """
    messages tools functions response_format logit_bias metadata stream_options prediction audio
    modalities web_search_options moderation prompt_cache_options chat_template_kwargs documents
    mm_processor_kwargs media_io_kwargs structured_outputs kv_transfer_params vllm_xargs
    stop_token_ids allowed_token_ids bad_words logprob_token_ids session_params
    provider models transforms reasoning usage plugins search_settings compound_custom
    exclude_domains include_domains dry_sequence_breakers samplers guardrails extra_body
    """.split()
)
MAYBE_STRUCTURED = frozenset({"stop", "tool_choice", "function_call", "thinking"})

# Parameters whose value is text, whatever it looks like: the user "00017" stays so.
TEXTS = frozenset(
    """
    model reasoning_effort verbosity service_tier user safety_identifier prompt_cache_key
    prompt_cache_retention truncation_side chat_template request_id session_id cache_salt
    guided_regex guided_grammar regex ebnf lora_path rid extra_key reasoning_format
    citation_options context_length_exceeded_behavior safety_model prompt_mode
    """.split()
)

# The envelope of an OpenAI Batch line; `custom_id` counts at the top level of any row.
ENVELOPE = frozenset({"custom_id", "method", "url", "body"})

SYNONYMS: tuple[frozenset[str], ...] = (
    # OpenAI and its gateways refuse a request that has the first two; vLLM and SGLang let one of
    # them win in silence. llama.cpp calls it `n_predict`, which wins there over both.
    frozenset({"max_tokens", "max_completion_tokens", "n_predict"}),
    # Mistral's name for it (mistralai 3.7.0).
    frozenset({"seed", "random_seed"}),
    # OpenRouter: 'Only one of "reasoning" and "reasoning_effort" may be provided'.
    frozenset({"reasoning_effort", "reasoning"}),
)
"""Names of one parameter. Where the row sets it by one name and the run by another, the row's is
the one sent."""

# Parameters whose value is a whole number, or a list of them. A table's column with a gap in it
# becomes one of floats on its way through pandas, and most servers refuse 100.0 for 100.
INTEGERS = frozenset(
    """
    n best_of max_tokens max_completion_tokens seed logprobs top_logprobs
    top_k min_tokens truncate_prompt_tokens prompt_logprobs priority thinking_token_budget
    stream_interval stop_token_ids allowed_token_ids logprob_token_ids data_parallel_rank
    mirostat repeat_last_n dry_allowed_length dry_penalty_last_n min_keep n_predict n_keep n_probs
    n_discard n_indent id_slot t_max_predict_ms thinking_budget random_seed top_prompt_logprobs
    """.split()
)

INTEGERS_INSIDE = {"reasoning": ("max_tokens",), "thinking": ("budget_tokens",)}
"""Whole numbers in the objects that some parameters are."""

OF_THE_RUN = frozenset({"messages", "stream"})
"""What no column sets: messages are what a row is about, and how replies travel is the run's
business."""

HOLDING = ("body", "extra_body")
"""The keys of a row under which parameters stand as an object."""

_INT64_MIN, _INT64_MAX = -(2**63), 2**63
_NO_OTHERS: frozenset[str] = frozenset()
_OTHERS = {name: names - {name} for names in SYNONYMS for name in names}
_ATTENDED = {
    name: _OTHERS.get(name, _NO_OTHERS)
    for name in INTEGERS | _OTHERS.keys() | INTEGERS_INSIDE.keys()
}
_WHOLE = frozenset({int, str, bool, type(None)})


def names_of(name: str) -> frozenset[str]:
    """All names of a parameter, the given one among them."""
    return _OTHERS.get(name, _NO_OTHERS) | {name}


def laid_over(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are sent: what the row gives, over the defaults of the run.

    What the row sets under one of a parameter's names is not sent under another one as well, null
    included. Whole numbers that came as floats (100.0) become integers. A row that has both names
    of a parameter keeps both.
    """
    body = {**defaults, **given}
    for name, value in body.items():
        if name in _ATTENDED and (
            (value.__class__ not in _WHOLE and _holds_float(value))
            or not _ATTENDED[name].isdisjoint(body)
        ):
            given = with_integers(given)
            return {**with_integers(without_synonyms(defaults, given)), **given}
    return body


def _holds_float(value: object) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return any(isinstance(item, float) for item in value)
    return isinstance(value, float)


def flags_over(file: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """``request.params`` of the config file under those of flags or keywords. A parameter that a
    flag sets counts under all of its names, and wins over ``extra_body`` of the file as well.
    """
    inner = flags.get("extra_body")
    named = flags.keys() | (inner.keys() if isinstance(inner, dict) else set())
    gone = {other for name in named for other in names_of(name)} - {"extra_body"}
    left = {name: value for name, value in file.items() if name not in gone}
    extra = left.get("extra_body")
    if isinstance(extra, dict):
        left["extra_body"] = {name: value for name, value in extra.items() if name not in gone}
    return {**left, **flags}


def without_synonyms(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """What is below without parameters that are set above under another name."""
    others = {other for name in above for other in _OTHERS.get(name, ()) if other not in above}
    return {name: value for name, value in below.items() if name not in others}


def with_integers(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with whole numbers that came as floats as integers."""
    return {name: _as_integer(name, value) for name, value in fields.items()}


def without_gaps(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters but those that are NaN where a whole number belongs."""
    return {name: value for name, value in fields.items() if not is_missing(name, value)}


def is_missing(name: str, value: object) -> bool:
    """Whether a parameter that is a whole number is NaN: the gap of a table's column of floats."""
    return isinstance(value, float) and math.isnan(value) and name in INTEGERS


def _as_integer(name: str, value: Any) -> Any:
    if name in INTEGERS:
        return [_whole(item) for item in value] if isinstance(value, list) else _whole(value)
    inside = INTEGERS_INSIDE.get(name)
    if inside is not None and isinstance(value, dict):
        return {k: _whole(v) if k in inside else v for k, v in value.items()}
    return value


def _whole(value: Any) -> Any:
    """An integer for a float that is one and fits 64 bits; anything else as it is."""
    if isinstance(value, float) and value.is_integer() and _INT64_MIN <= value < _INT64_MAX:
        return int(value)
    return value
