"""Log probabilities of a simulated answer: one entry per token, as OpenAI's `logprobs` has them.

The tokens are those that are counted (`tokens.py`), each with the white space before it, and
together they are the text. The figures are drawn, and behave as those of a model that samples: of
the alternatives the likeliest comes first, the chosen token is among them or, where only a few
were asked for, now and then is not.
"""

import re
from typing import Any

from batchrun.simulator.writing.draws import Chance
from batchrun.simulator.writing.tokens import CJK_RANGES

TOP_MAX = 20
_TOKEN = re.compile(rf"\s*(?:[{CJK_RANGES}]|[^\s{CJK_RANGES}]{{1,4}})")
_OTHERS = (
    " the", " a", " of", " is", " to", ".", ",", "\n", " 的", "了", "。", " and", " It", " in",
    " as", "ing", "ed", " for", " not", "ß", "é", "🙂",
)  # fmt: skip


def tokens_of(text: str) -> list[str]:
    """The tokens of a text, in its order; white space at its end belongs to the last one."""
    tokens = _TOKEN.findall(text)
    rest = text[sum(map(len, tokens)) :]
    if not tokens:
        return [rest] if rest else []
    tokens[-1] += rest
    return tokens


def write_logprobs(tokens: list[str], top: int, chance: Chance) -> list[dict[str, Any]]:
    """The entries of the tokens, each with `top` alternatives."""
    entries = []
    for token in tokens:
        rank = 0 if chance.below(8) else 1 + chance.below(3)
        others = [other for other in _rotated(chance) if other != token]
        ranked = [*others[:rank], token, *others[rank:]][: max(top, rank + 1)]
        left, logprobs = 0.0, []
        for _ in ranked:
            # A fraction that a double holds exactly, so that every reader has the same figure.
            left -= (1 + chance.below(2**12)) / 2**10
            logprobs.append(left)
        described = [_entry(*pair) for pair in zip(ranked, logprobs, strict=True)]
        entries.append(described[rank] | {"top_logprobs": described[:top]})
    return entries


def _rotated(chance: Chance) -> tuple[str, ...]:
    start = chance.below(len(_OTHERS))
    return _OTHERS[start:] + _OTHERS[:start]


def _entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
