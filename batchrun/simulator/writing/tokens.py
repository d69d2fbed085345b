"""Token counts by a rule simple enough to check by hand.

A CJK character is one token; any other word (a run without white space or CJK) is one token per
four characters, rounded up. On top come 3 tokens per message and 3 that prime the reply, the
overheads that OpenAI documents for its chat models. No tokenizer counts exactly like this: the
simulator promises consistent usage, not a vendor's.
"""

import re

MESSAGE_TOKENS = 3
PRIMING_TOKENS = 3
CHARS_PER_TOKEN = 4

# Punctuation, kana, ideographs, hangul, full-width forms; the ideographic space is white space.
CJK_RANGES = (
    "\u3001-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff01-\uffef"
    "\U00020000-\U0003134f"
)
_CJK = re.compile(f"[{CJK_RANGES}]")
_CJK_OR_WORD = re.compile(rf"[{CJK_RANGES}]|[^\s{CJK_RANGES}]+")


def has_cjk(text: str) -> bool:
    """Whether any character is Chinese, Japanese or Korean."""
    return not text.isascii() and _CJK.search(text) is not None


def count_tokens(text: str) -> int:
    """The tokens of `text` by the rule above."""
    if text.isascii():
        return sum([(len(word) + 3) >> 2 for word in text.split()])
    rest, cjk = _CJK.subn(" ", text)
    return cjk + sum([(len(word) + 3) >> 2 for word in rest.split()])


def cut_to_tokens(text: str, tokens_max: int) -> str:
    """The longest beginning of `text` that counts at most `tokens_max` tokens."""
    left = tokens_max
    for match in _CJK_OR_WORD.finditer(text):
        tokens = count_tokens(match[0])
        if tokens > left:
            return text[: match.start() + left * CHARS_PER_TOKEN]
        left -= tokens
    return text
