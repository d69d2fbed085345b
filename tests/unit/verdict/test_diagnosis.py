"""Reading a server's list of models."""

import json

import pytest

from batchrun.core.settings.providers import BY_NAME
from batchrun.core.verdict import diagnosis
from batchrun.records import Reply


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/v1/chat/completions", "http://h/v1/models"),
        (
            "https://r/openai/deployments/d/chat/completions?api-version=1",
            "https://r/openai/models?api-version=1",
        ),
        ("https://g/v1beta/openai/chat/completions", "https://g/v1beta/openai/models"),
    ],
)
def test_where_models_are_listed(url, expected):
    """Beside chat completions, query kept; a deployment lists nothing, its resource does."""
    assert diagnosis.models_url(url) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"object": "list", "data": [{"id": "a"}, {"id": "b"}]}, ["a", "b"]),
        ([{"id": "a"}, {"name": "no id"}, 7], ["a"]),
        ({"data": [{"id": "models/gemini-2.5-flash"}]}, ["gemini-2.5-flash"]),
        ({"data": None}, None),
        ({"error": "no"}, None),
        ("text", None),
    ],
)
def test_lists_of_models(body, expected):
    """Under `data`, or bare as Together's; Gemini's prefix is taken off; else there is none."""
    assert diagnosis.models_in(json.dumps(body).encode()) == expected
    assert diagnosis.models_in(b"<html>") is None


def test_the_nearest_models():
    """A slip of the pen, a name without its vendor, another case."""
    listed = ["meta-llama/Llama-3.1-8B-Instruct", "gpt-4.1-mini", "gpt-4.1", "qwen3-8b"]
    assert diagnosis.nearest("gpt-4.1-mni", listed)[0] == "gpt-4.1-mini"
    assert diagnosis.nearest("llama-3.1-8b-instruct", listed)[0] == listed[0]
    assert "qwen3-8b" in diagnosis.nearest("Qwen/Qwen3-8B", listed)
    assert diagnosis.nearest("zzz", listed) == []


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"data": [{"id": "m"}]}, "ok"),
        (200, {"data": [{"id": "other"}]}, "warning"),
        (200, {"data": []}, "warning"),
        (200, "a page", "warning"),
        (401, {}, "failed"),
        (403, {}, "warning"),
        (404, {}, "skipped"),
        (503, {}, "warning"),
    ],
)
def test_what_the_list_says(status, body, expected):
    """A refused key is certain; all else the request decides."""
    reply = Reply(status, {}, json.dumps(body).encode())
    check, _ = diagnosis.on_models(reply, "told", "m", BY_NAME["groq"])
    assert check.status == expected
    assert diagnosis.on_models(reply, "told", "m", BY_NAME["azure"])[0].status == "skipped"
