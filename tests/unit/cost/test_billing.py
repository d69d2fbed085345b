"""Which tokens of a usage object are billed at which price, also where its counts do not add up."""

import json

import pytest

from batchrun.core.cost import billing
from batchrun.core.cost.billing import CACHED_BESIDE, PARTS, TOTAL
from batchrun.core.reply import completion as reading

# fresh, cached, written, output, reasoning; the reading; whether the user hears of it


@pytest.mark.parametrize(
    ("usage", "tokens", "source", "odd"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
         (10, 0, 0, 5, 0), PARTS, False),
        ({"prompt_tokens": 10, "completion_tokens": 5}, (10, 0, 0, 5, 0), PARTS, False),
        # As specified: cached, written and reasoning tokens are part of the others
        ({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
          "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
          "completion_tokens_details": {"reasoning_tokens": 40}},
         (10, 60, 30, 10, 40), PARTS, False),
        # What was thought stands in the total alone (Gemini's OpenAI endpoint)
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623},
         (20, 0, 0, 603, 0), TOTAL, True),
        ({"prompt_tokens": 9, "total_tokens": 58}, (9, 0, 0, 49, 0), PARTS, False),
        ({"completion_tokens": 9, "total_tokens": 58}, (49, 0, 0, 9, 0), PARTS, False),
        ({"total_tokens": 58}, (0, 0, 0, 58, 0), TOTAL, True),
        # ... or on top of the completion (xAI)
        ({"prompt_tokens": 21, "completion_tokens": 10, "total_tokens": 91,
          "completion_tokens_details": {"reasoning_tokens": 60}}, (21, 0, 0, 10, 60), TOTAL, False),
        ({"prompt_tokens": 21, "completion_tokens": 0, "total_tokens": 81,
          "completion_tokens_details": {"reasoning_tokens": 60}}, (21, 0, 0, 0, 60), TOTAL, False),
        # More was thought than the completion has: it cannot be part of it
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 218,
          "completion_tokens_details": {"reasoning_tokens": 405}},
         (20, 0, 0, 198, 405), PARTS, True),
        ({"prompt_tokens": 20, "completion_tokens": 198,
          "completion_tokens_details": {"reasoning_tokens": 405}},
         (20, 0, 0, 198, 405), PARTS, True),
        ({"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 130,
          "completion_tokens_details": {"reasoning_tokens": 60}},
         (20, 0, 0, 50, 60), TOTAL, True),
        # Next to the prompt (gateways in front of Anthropic)
        ({"prompt_tokens": 19, "completion_tokens": 5, "total_tokens": 24,
          "prompt_tokens_details": {"cached_tokens": 39_000}},
         (19, 39_000, 0, 5, 0), CACHED_BESIDE, True),
        ({"prompt_tokens": 19, "completion_tokens": 5, "total_tokens": 39_024,
          "cache_read_input_tokens": 39_000}, (19, 39_000, 0, 5, 0), CACHED_BESIDE, True),
        ({"prompt_tokens": 500, "completion_tokens": 5, "total_tokens": 805,
          "prompt_tokens_details": {"cached_tokens": 200, "cache_creation_tokens": 100}},
         (500, 200, 100, 5, 0), CACHED_BESIDE, True),
        ({"prompt_tokens": 19, "completion_tokens": 50, "total_tokens": 69,
          "cache_creation_input_tokens": 4_000,
          "completion_tokens_details": {"reasoning_tokens": 20}},
         (19, 0, 4_000, 30, 20), CACHED_BESIDE, True),
        # Anthropic's names alone: its prompt tokens leave the cached ones out
        ({"prompt_tokens": 500, "completion_tokens": 5, "total_tokens": 505,
          "cache_read_input_tokens": 300, "cache_creation_input_tokens": 0},
         (500, 300, 0, 5, 0), CACHED_BESIDE, True),
        ({"input_tokens": 500, "output_tokens": 5, "cache_read_input_tokens": 300},
         (500, 300, 0, 5, 0), CACHED_BESIDE, True),
        # ... and OpenAI's next to them: somebody has converted the prompt tokens (LiteLLM)
        ({"prompt_tokens": 500, "completion_tokens": 5, "total_tokens": 505,
          "cache_read_input_tokens": 300, "prompt_tokens_details": {"cached_tokens": 300}},
         (200, 300, 0, 5, 0), PARTS, False),
        # A part of DeepSeek's prompt tokens, by its own name
        ({"prompt_tokens": 500, "completion_tokens": 5, "total_tokens": 505,
          "prompt_cache_hit_tokens": 300, "prompt_cache_miss_tokens": 200},
         (200, 300, 0, 5, 0), PARTS, False),
        # Less than its parts: the parts are more
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 5},
         (10, 0, 0, 5, 0), PARTS, False),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 0},
         (10, 0, 0, 5, 0), PARTS, False),
    ],
)  # fmt: skip
def test_what_is_billed(usage, tokens, source, odd):
    """No token twice, none left out; where readings differ, the dearest."""
    billed = billing.read(reading.usage(usage), json.dumps(usage))
    assert billed == (*tokens, source, odd)
    assert billed.tokens == billing.tokens(reading.usage(usage), json.dumps(usage))


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": 5}, {"completion_tokens": 5}, None])
def test_half_a_usage_bills_nothing(usage):
    """What is not known is not 0."""
    assert billing.read(reading.usage(usage)) is None


def test_the_user_reads_the_counts_and_how_they_are_billed():
    """One sentence has the numbers, the reading, and the column that keeps the original."""
    usage = reading.usage({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623})
    said = billing.discrepancy(usage, billing.read(usage))
    assert "prompt 20, completion 198, total 623" in said
    assert "billed as output" in said and "usage_raw" in said
