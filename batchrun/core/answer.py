"""Whether an answer is whole, and whether it says anything."""

from __future__ import annotations

from batchrun.records import Choice, Completion

TRUNCATED = frozenset(
    """
    length max_tokens max_output_tokens model_length token_limit model_context_window_exceeded
    """.split()
)
"""Finish reasons of an answer that a token limit cut off, in lower case: OpenAI and most others,
Anthropic and Gemini behind proxies, Mistral."""
BLANK = " \t\r\n"
"""Content of nothing else counts as empty."""


def is_truncated(completion: Completion) -> bool:
    """Whether a token limit cut any of the answers off."""
    if completion.choices is None:
        return cut_off(completion.first.finish_reason)
    return any(cut_off(choice.finish_reason) for choice in completion.choices)


def is_empty(completion: Completion) -> bool:
    """Whether any of the answers says nothing: reasoning alone is no answer, an image is one."""
    if completion.media is not None:
        return False
    if completion.choices is None:
        return _says_nothing(completion.first)
    return any(_says_nothing(choice) for choice in completion.choices)


def cut_off(finish_reason: str | None) -> bool:
    """Whether a finish reason tells of a token limit."""
    return (
        finish_reason is not None and finish_reason != "stop" and finish_reason.lower() in TRUNCATED
    )


def blank(content: str | None) -> bool:
    """Whether content is missing or nothing but white space."""
    return not content or (content[0] in BLANK and not content.strip(BLANK))


def _says_nothing(choice: Choice) -> bool:
    return blank(choice.content) and not choice.tool_calls and not choice.refusal
