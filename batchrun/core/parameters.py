"""Which keys of a row are chat-completion parameters, and which are the user's data.

A row that is itself a chat body mixes both: ``{"messages": [...], "temperature": 0, "ticket": 7}``.
Keys in ``SENT`` go to the server, every other key is carried to the results. The first table is
the specification's (openai-openapi 2.3.0, ``CreateChatCompletionRequest``); the others are
extensions read from the servers' own sources, which those servers take at the top level of the
body. Values are never checked against a range or an enumeration: servers disagree and grow.
"""

from __future__ import annotations

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

SENT = SPECIFIED | VLLM | SGLANG | LLAMA_CPP | OTHERS

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
