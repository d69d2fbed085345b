"""What the simulated model says: text that depends on the request and the seed alone."""

from dataclasses import dataclass

from batchrun.simulator.draws import draw_choice
from batchrun.simulator.filler import CHINESE, ENGLISH
from batchrun.simulator.tokens import count_tokens, cut_to_tokens, has_cjk

QUOTED_CHARS = 40
TAG_HEX_DIGITS = 8
NATURAL_TOKENS = (40, 120)


@dataclass(frozen=True, slots=True)
class Passage:
    """The content of one choice. `finish_reason` is `length` where the token limit cut it.

    Where it calls the tool `calls`, the content is the call's arguments.
    """

    content: str
    tokens: int
    finish_reason: str
    calls: str | None = None

    def cut(self, tokens_max: int) -> "Passage":
        """The same as a token limit leaves it."""
        if self.tokens <= tokens_max:
            return self
        content = cut_to_tokens(self.content, tokens_max)
        return Passage(content, count_tokens(content), "length", self.calls)


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
    quote = " ".join(said[: 2 * QUOTED_CHARS].split())[:QUOTED_CHARS]
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
    passage = Passage(heading + body, tokens + more, "stop")
    return passage if tokens_max is None else passage.cut(tokens_max)
