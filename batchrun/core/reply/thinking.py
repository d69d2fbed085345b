"""Reasoning that stands in the content between tags: ``--think split`` moves it to ``reasoning``.

Servers that parse reasoning do this themselves. Others hand on what the model wrote: a block at the
start of the content, or the end of one that the chat template had opened. A tag anywhere else is
text that speaks of a tag, and stays.
"""

from __future__ import annotations

import re

import msgspec

from batchrun.core.reply.answer import BLANK, blank, cut_off, each_choice
from batchrun.records import Choice, Completion

TAGS: tuple[tuple[str, str, str], ...] = (
    ("<think>", "</think>", "DeepSeek R1, Qwen, most others; vLLM's reasoning parsers"),
    ("<thinking>", "</thinking>", "Open WebUI's reasoning tags"),
    ("<thought>", "</thought>", "EXAONE Deep, Gemini; Open WebUI's reasoning tags"),
    ("<seed:think>", "</seed:think>", "Seed-OSS; vLLM's seed_oss parser"),
    ("[THINK]", "[/THINK]", "Magistral; vLLM's mistral parser"),
    ("◁think▷", "◁/think▷", "Kimi; Open WebUI's reasoning tags"),
    ("<|begin_of_thought|>", "<|end_of_thought|>", "Sky-T1, OpenThinker; Open WebUI's tags"),
)
"""What opens a block of reasoning, what closes it, and who writes it so. Case does not matter."""

_decode = msgspec.json.Decoder().decode
_OPENING = re.compile("|".join(re.escape(tag) for tag, _, _ in TAGS), re.IGNORECASE)
_CLOSING = re.compile("|".join(re.escape(tag) for _, tag, _ in TAGS), re.IGNORECASE)
_CLOSES = {tag.lower(): re.compile(re.escape(end), re.IGNORECASE) for tag, end, _ in TAGS}
_QUOTES = "`\"'\u2018\u2019\u201c\u201d\u00ab\u00bb"


def split(completion: Completion) -> Completion:
    """The completion with reasoning in tags moved out of the content of each choice."""
    return each_choice(completion, _split)


def _split(choice: Choice) -> Choice:
    content = choice.content
    if not content:
        return choice
    thoughts: list[str] = []
    rest = content.lstrip(BLANK)
    while opening := _OPENING.match(rest):
        closing = _CLOSES[opening[0].lower()].search(rest, opening.end())
        if closing is not None:
            thoughts.append(rest[opening.end() : closing.start()])
            rest = rest[closing.end() :].lstrip(BLANK)
        elif cut_off(choice.finish_reason):
            # The limit came while the model was still reasoning.
            thoughts.append(rest[opening.end() :])
            rest = ""
        else:
            break
    if not thoughts and blank(choice.reasoning) and (ends := _lone_end(rest)) is not None:
        thoughts.append(rest[: ends.start()])
        rest = rest[ends.end() :].lstrip(BLANK)
    if not thoughts:
        return choice
    thought = "\n\n".join(text for text in (t.strip(BLANK) for t in thoughts) if text)
    return choice._replace(content=rest or None, reasoning=_joined(choice.reasoning, thought))


def _lone_end(text: str) -> re.Match[str] | None:
    """The tag that ends reasoning which the chat template opened: the first closing tag, unless
    its opening one is in the text too, or the text speaks of it.
    """
    found = _CLOSING.search(text)
    if found is None or _OPENING.search(text, 0, found.start()) or _is_json(text):
        return None
    before, after = text[found.start() - 1 : found.start()], text[found.end() : found.end() + 2]
    quoted = before in _QUOTES and after[:1] in _QUOTES and bool(before and after)
    ends_sentence = bool(after) and after[0] in ".,;:!?)"
    in_sentence = before == " " and after[:1] == " " and after[1:].islower()
    return None if quoted or ends_sentence or in_sentence else found


def _is_json(text: str) -> bool:
    if text[:1] not in ("{", "[", '"'):
        return False
    try:
        _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True


def _joined(given: str | None, thought: str) -> str | None:
    """Reasoning that the server gave, and reasoning from the content, each once."""
    if blank(given):
        return thought or None
    assert given is not None
    return given if thought in given else f"{given}\n\n{thought}"
