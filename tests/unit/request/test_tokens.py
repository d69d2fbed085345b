"""Estimating tokens for the token limit."""

import pytest

from batchrun.core.request.tokens import (
    IMAGE_TOKENS,
    UNSTATED_COMPLETION_TOKENS,
    estimate,
    stated_limit,
)


@pytest.mark.parametrize(
    ("body", "completion"),
    [
        ({}, UNSTATED_COMPLETION_TOKENS),
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 20, "max_tokens": 10}, 20),
        ({"max_completion_tokens": None, "max_tokens": 10}, 10),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"n": 2}, 2 * UNSTATED_COMPLETION_TOKENS),
        ({"max_tokens": 0}, UNSTATED_COMPLETION_TOKENS),
        ({"max_tokens": -5}, UNSTATED_COMPLETION_TOKENS),
        ({"max_tokens": "10"}, UNSTATED_COMPLETION_TOKENS),
        ({"max_tokens": 10, "n": 0}, 10),
        ({"max_tokens": 10, "n": "many"}, 10),
        ({"max_tokens": 10, "n": None}, 10),
    ],
)
def test_the_completion_counts_as_a_server_would_charge_it(body, completion):
    """The stated limit times the choices, or a guess where none is stated or it is nonsense."""
    assert estimate(body, 350, stated_limit(body)) == 100 + completion


def test_an_image_inside_the_body_counts_as_an_image():
    """Its bytes in base64 are no text; other parts and small bodies count by their bytes."""
    url = "data:image/png;base64," + "A" * 35_000
    image = {"type": "image_url", "image_url": {"url": url}}
    text = {"type": "text", "text": "what is this?"}
    odd = [None, {"image_url": None}, {"image_url": {"url": "https://a.example"}}]
    messages = [{"content": "text"}, {"content": [text, image, *odd]}]
    body = {"max_tokens": 1, "messages": messages}
    assert estimate(body, len(url) + 350, 1) == 100 + IMAGE_TOKENS + 1


@pytest.mark.parametrize(
    ("body_bytes", "prompt"), [(0, 1), (1, 1), (7, 2), (3500, 1000), (35_000_000, 10_000_000)]
)
def test_the_prompt_counts_by_its_bytes(body_bytes, prompt):
    """Three and a half bytes are a token, and no prompt is free."""
    assert estimate({"max_tokens": 1}, body_bytes, 1) == prompt + 1
