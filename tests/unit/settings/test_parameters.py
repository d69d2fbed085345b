"""Which keys of a row are sent."""

import pytest

from batchrun.core.settings import parameters


@pytest.mark.parametrize(
    "name",
    """
    messages model temperature max_tokens max_completion_tokens n seed stop tools tool_choice
    response_format reasoning_effort logit_bias user metadata service_tier
    top_k min_p repetition_penalty chat_template_kwargs guided_json structured_outputs
    regex ebnf separate_reasoning enable_thinking thinking provider reasoning cache_prompt
    modalities audio prediction verbosity moderation prompt_cache_options safety_identifier
    plugins top_a reasoning_format include_reasoning search_settings safe_prompt random_seed
    prompt_mode context_length_exceeded_behavior repeat_penalty mirostat dry_multiplier
    """.split(),
)
def test_parameters_of_the_specification_and_of_vendors_are_sent(name):
    """OpenAI's parameters and the extras of vLLM, SGLang and gateways belong to the body."""
    assert name in parameters.SENT


@pytest.mark.parametrize(
    "name",
    "id ticket expected topic lang prompt text question custom_id extra_body body "
    "grammar json_schema lora country route description verbose".split(),
)
def test_what_data_sets_call_their_columns_is_not_sent(name):
    """Common names of data columns stay data."""
    assert name not in parameters.SENT


def test_what_may_be_json_text_is_a_parameter():
    """A column is parsed as JSON only where its value goes into the body."""
    may_be_json = parameters.STRUCTURED | parameters.MAYBE_STRUCTURED
    assert may_be_json - {"extra_body"} <= parameters.SENT
    assert not parameters.STRUCTURED & parameters.MAYBE_STRUCTURED
