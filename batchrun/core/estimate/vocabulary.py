"""Which vocabulary a model has, by its name; and how many tokens a text has without one at hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from batchrun.core.estimate.scripts_of_text import byte_counts
from batchrun.core.estimate.token_table import ERRORS, RATES, STAND_IN, UNKNOWN_MODEL

STANDARD = "o200k_base"
"""The vocabulary used for models with an unknown vocabulary."""

_MODELS = tuple(
    (re.compile(rf"(?:ft:)?(?:[\w.-]+/)*(?:meta-)?(?:{names})", re.IGNORECASE), vocabulary)
    for names, vocabulary in (
        (r"gpt-(?:4o|4\.1|4\.5|5|oss)|chatgpt-4o|o[134](?:-|$)", STANDARD),
        (r"gpt-(?:4|3\.5)", "cl100k_base"),
        (r"llama-?3", "llama3"),
        (r"qwen-?[23]|qwq", "qwen3"),
        (r"deepseek-(?:v3|r1|chat|reasoner)", "deepseek_v3"),
        (r"(?:open-)?(?:mistral|ministral|pixtral|devstral)", "mistral_v3"),
        (r"gemma-?3", "gemma3"),
        (r"glm-?4", "glm4"),
        (r"(?:moonshotai/)?kimi-?k2", "kimi_k2"),
    )
)


class Counted(NamedTuple):
    """The tokens of a text, and between what they lie nine times in ten."""

    tokens: float
    low: float
    high: float


Count = Callable[[str], Counted]


def of_model(model: str) -> str | None:
    """The vocabulary of a model; None where its name does not tell."""
    for pattern, vocabulary in _MODELS:
        if pattern.match(model):
            return vocabulary
    return None


def by_bytes(vocabulary: str | None) -> Count:
    """Counts by the scripts of a text and the table; None: of a model with a vocabulary unknown."""
    errors = UNKNOWN_MODEL if vocabulary is None else ERRORS[vocabulary]
    return partial(_by_bytes, RATES[vocabulary or STANDARD], errors)


def by_tokenizer(encode: Callable[[str], Sequence[int]], *, own: bool) -> Count:
    """Counts by a tokenizer: exactly if the vocabulary is the model's ``own``, else within the
    spread that the known vocabularies have.
    """
    return partial(_exactly if own else _by_stand_in, encode)


def _by_bytes(rates: Sequence[float], errors: Sequence[tuple[float, float]], text: str) -> Counted:
    tokens = low = high = 0.0
    for count, rate, (least, most) in zip(byte_counts(text), rates, errors, strict=True):
        if count:
            part = count * rate
            tokens += part
            low += part * least
            high += part * most
    return Counted(tokens, low, high)


def _exactly(encode: Callable[[str], Sequence[int]], text: str) -> Counted:
    tokens = float(len(encode(text)))
    return Counted(tokens, tokens, tokens)


def _by_stand_in(encode: Callable[[str], Sequence[int]], text: str) -> Counted:
    tokens = len(encode(text))
    counts = byte_counts(text)
    size = sum(counts) or 1
    low = sum(n * least for n, (least, _) in zip(counts, STAND_IN, strict=True))
    high = sum(n * most for n, (_, most) in zip(counts, STAND_IN, strict=True))
    return Counted(tokens, tokens * low / size, tokens * high / size)
