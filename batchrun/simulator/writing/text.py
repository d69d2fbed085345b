"""What the simulated model says: text that depends on the request and the seed alone."""

from dataclasses import dataclass

from batchrun.simulator.writing.draws import Chance, draw_choice
from batchrun.simulator.writing.filler import CHINESE, ENGLISH
from batchrun.simulator.writing.tokens import count_tokens, cut_to_tokens, has_cjk

QUOTED_CHARS = 40
TAG_HEX_DIGITS = 8
NATURAL_TOKENS = (40, 120)


@dataclass(frozen=True, slots=True)
class Passage:
    """The content of one choice. `finish_reason` is `length` where the token limit cut it."""

    content: str
    tokens: int
    finish_reason: str

    def cut(self, tokens_max: int | None) -> "Passage":
        """The same as a token limit leaves it."""
        if tokens_max is None or self.tokens <= tokens_max:
            return self
        content = cut_to_tokens(self.content, tokens_max)
        return Passage(content, count_tokens(content), "length")


def quote_of(said: str) -> str:
    """The beginning of what was said, on one line."""
    return " ".join(said[: 2 * QUOTED_CHARS].split())[:QUOTED_CHARS]


def write_passage(
    key: bytes,
    digest: bytes,
    index: int,
    said: str,
    *,
    reply_bytes: int | None = None,
    tokens_max: int | None = None,
) -> Passage:
    """The content of choice `index` for the request `digest`, whose last user message is `said`.

    Its first line quotes `said` and names the first 8 hex digits of the request's hash, so an
    answer that lands on the wrong row shows. Without `reply_bytes` it has 40 to 120 tokens; with
    it, that many bytes in UTF-8 (up to 3 fewer where a character would be torn).
    """
    start, length = draw_choice(key, digest, index)
    quote = quote_of(said)
    tag = digest.hex()[:TAG_HEX_DIGITS]
    if has_cjk(said):
        ring, heading = CHINESE, f"关于「{quote}」[{tag}]:\n"
    else:
        ring, heading = ENGLISH, f'Re: "{quote}" [{tag}]\n'
    tokens = count_tokens(heading)
    if reply_bytes is None:
        shortest, longest = NATURAL_TOKENS
        shortest += ring.sentence_tokens_max  # the last sentence may stop that much short
        body, more = ring.by_tokens(start, shortest + length % (longest - shortest + 1) - tokens)
    else:
        lead = heading.encode()
        if len(lead) > reply_bytes:
            heading = lead[:reply_bytes].decode(errors="ignore")
            tokens = count_tokens(heading)
        body, more = ring.by_bytes(start, max(reply_bytes - len(lead), 0))
    return Passage(heading + body, tokens + more, "stop").cut(tokens_max)


def write_reasoning(
    key: bytes, digest: bytes, index: int, said: str, tokens: int
) -> tuple[str, int]:
    """What the model thinks before choice `index`, and how many tokens that is: about `tokens`."""
    start = Chance(key, digest, index, b"reasoning").number()
    lead = f"{quote_of(said)}? [{digest.hex()[:TAG_HEX_DIGITS]}]\n\n"
    ring = CHINESE if has_cjk(said) else ENGLISH
    body, _ = ring.by_tokens(start, max(1, tokens - count_tokens(lead)))
    text = lead + body
    return text, count_tokens(text)


def write_refusal(digest: bytes, said: str, tokens_max: int | None) -> Passage:
    """How the model refuses."""
    content = (
        f"I can\u2019t help with \u201c{quote_of(said)}\u201d [{digest.hex()[:TAG_HEX_DIGITS]}]."
    )
    return Passage(content, count_tokens(content), "stop").cut(tokens_max)
