"""Whether an answer is whole, whether it says anything, and whether it was withheld."""

from __future__ import annotations

from collections.abc import Callable

from batchrun.records import Choice, Completion

TRUNCATED = frozenset(
    """
    length max_tokens max_output_tokens model_length token_limit model_context_window_exceeded
    """.split()
)
"""Finish reasons of an answer that a token limit cut off, in lower case: OpenAI and most others,
Anthropic and Gemini behind proxies, Mistral."""
WITHHELD = frozenset(
    """
    content_filter content_filtered safety recitation blocklist prohibited_content spii
    image_safety refusal sensitive guardrail_intervened
    """.split()
)
"""Finish reasons of an answer that a filter or the model's own rules kept back, in lower case:
OpenAI and most others, Gemini, Anthropic, Zhipu and Bedrock behind proxies."""
TRUNCATED_ANSWER, EMPTY_ANSWER = FLAWS = ("truncated", "empty")
"""What an answer that is kept may be all the same, as ``--retry-class`` names it."""
BLANK = " \t\r\n"
"""Content of nothing else counts as empty."""


def is_ordinary(completion: Completion) -> bool:
    """Whether an answer is surely neither truncated nor empty, as nearly all are: one choice of
    text, which says that it stopped by itself.
    """
    first = completion.first
    content = first.content
    return (
        first.finish_reason == "stop"
        and completion.choices is None
        and bool(content)
        and content[0] not in BLANK  # type: ignore[index]
    )


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


def is_withheld(completion: Completion) -> bool:
    """Whether a filter, or the model's refusal, stands where the answer should be."""
    if completion.first.content and not blank(completion.first.content):
        return False
    return all(map(_withheld, completion.choices or (completion.first,)))


def flaws(*, truncated: bool, empty: bool) -> frozenset[str]:
    """The names of what an answer is."""
    return _FLAWS[truncated, empty]


def flaws_of(completion: Completion) -> frozenset[str]:
    """What is wrong with an answer that may be kept all the same."""
    return flaws(truncated=is_truncated(completion), empty=is_empty(completion))


_FLAWS = {
    (cut, bare): frozenset(name for name, on in zip(FLAWS, (cut, bare), strict=True) if on)
    for cut in (False, True)
    for bare in (False, True)
}


def each_choice(completion: Completion, change: Callable[[Choice], Choice]) -> Completion:
    """The completion with every choice changed; itself where nothing is."""
    if completion.choices is None:
        first = change(completion.first)
        return completion if first is completion.first else completion._replace(first=first)
    choices = tuple(map(change, completion.choices))
    return completion._replace(first=choices[0], choices=choices)


def cut_off(finish_reason: str | None) -> bool:
    """Whether a finish reason tells of a token limit."""
    return (
        finish_reason is not None and finish_reason != "stop" and finish_reason.lower() in TRUNCATED
    )


def blank(content: str | None) -> bool:
    """Whether content is missing or nothing but white space."""
    return not content or (content[0] in BLANK and not content.strip(BLANK))


def _withheld(choice: Choice) -> bool:
    if choice.tool_calls or not blank(choice.content):
        return False
    return not blank(choice.refusal) or (choice.finish_reason or "").lower() in WITHHELD


def _says_nothing(choice: Choice) -> bool:
    return blank(choice.content) and not choice.tool_calls and not choice.refusal
