"""Readable filler: a ring of sentences per language, with sizes and token counts known beforehand.

An answer is a stretch of a ring, so writing one costs two look-ups and a slice, whatever its size.
"""
# ruff: noqa: RUF001  Chinese text uses full-width punctuation

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from batchrun.simulator.writing.tokens import count_tokens

SENTENCES = 480

# The list lengths are coprime: sentence k takes item k of each list, and none comes twice.
_ENGLISH = (
    (
        "A closer look",
        "The first example",
        "Everyday experience",
        "The longer record",
        "A careful reading",
        "The simplest model",
        "An older study",
        "The second figure",
        "A quick check",
        "The full history",
        "A plain comparison",
        "The usual practice",
        "A small trial",
        "The written source",
        "An honest summary",
        "The common view",
    ),
    (
        " suggests that ",
        " shows that ",
        " confirms that ",
        " reminds us that ",
        " makes it clear that ",
        " leaves room for the idea that ",
        " supports the claim that ",
        " hints that ",
        " agrees that ",
        " explains why ",
        " illustrates how ",
        " tells us that ",
        " indicates that ",
        " implies that ",
        " argues that ",
    ),
    (
        "small steps add up over time. ",
        "the order of the parts matters. ",
        "costs fall as the work becomes routine. ",
        "most questions have a shorter answer. ",
        "the weather decides more than the plan. ",
        "a second opinion is worth the wait. ",
        "good tools disappear into the hand. ",
        "the map and the ground rarely agree. ",
        "patience pays better than haste. ",
        "every rule meets its exception. ",
        "the middle of the story carries the weight. ",
        "numbers need a context to speak. ",
        "rivers find the lowest path. ",
        "clear names save long meetings. ",
        "the quiet option is often the right one. ",
        "what is measured gets noticed. ",
        "old habits return under pressure. ",
    ),
)
_CHINESE = (
    (
        "仔细看来，",
        "从第一个例子看，",
        "按照日常经验，",
        "简单比较之后，",
        "根据较早的研究，",
        "总的来说，",
        "换一个角度看，",
        "把过程写下来，",
    ),
    (
        "我们可以认为",
        "不难发现",
        "多数人同意",
        "记录清楚地表明",
        "结果再次说明",
        "这里值得注意的是",
        "有理由相信",
        "可以比较放心地说",
        "数据提示我们",
    ),
    (
        "小的进步会慢慢积累。",
        "步骤的先后很重要。",
        "熟练之后成本自然下降。",
        "多数问题都有更短的答案。",
        "多听一个意见总是值得。",
        "好的工具用起来不显眼。",
        "耐心往往胜过匆忙。",
        "每条规则都有例外。",
        "数字需要背景才有意义。",
        "清楚的名字省去许多解释。",
        "安静的办法常常最合适。",
    ),
)


@dataclass(frozen=True, slots=True)
class Ring:
    """Sentences in a circle; a stretch starts at any of them and may run around many times."""

    data: bytes  # all sentences in UTF-8, each with what separates it from the next
    offsets: tuple[int, ...]  # where sentence k starts in `data`, in bytes; the last is the end
    tokens: tuple[int, ...]  # tokens before sentence k; the last is the total
    sentence_tokens_max: int

    def by_tokens(self, start: int, tokens_max: int) -> tuple[str, int]:
        """Whole sentences from `start` on, at most `tokens_max` tokens but at least one sentence.

        Returns the text and its token count. `tokens_max` beyond one lap gives one lap.
        """
        total = self.tokens[-1]
        first = start % SENTENCES
        until = self.tokens[first] + min(tokens_max, total)
        if until <= total:
            last = max(bisect_right(self.tokens, until) - 1, first + 1)
            text = self.data[self.offsets[first] : self.offsets[last]]
            return text.decode().rstrip(), self.tokens[last] - self.tokens[first]
        last = bisect_right(self.tokens, until - total) - 1
        text = self.data[self.offsets[first] :] + self.data[: self.offsets[last]]
        return text.decode().rstrip(), total - self.tokens[first] + self.tokens[last]

    def by_bytes(self, start: int, size_bytes: int) -> tuple[str, int]:
        """Text from sentence `start` on of `size_bytes` bytes, less a character torn at the end.

        Returns the text and its token count.
        """
        first = start % SENTENCES
        begin = self.offsets[first]
        end = begin + size_bytes
        laps, rest = divmod(end, len(self.data))
        if laps:
            data = self.data[begin:] + self.data * (laps - 1) + self.data[:rest]
        else:
            data = self.data[begin:rest]
        last = bisect_right(self.offsets, rest) - 1
        tail = self.data[self.offsets[last] : rest].decode(errors="ignore")
        tokens = laps * self.tokens[-1] + self.tokens[last] + count_tokens(tail)
        return data.decode(errors="ignore"), tokens - self.tokens[first]


def _ring(parts: tuple[tuple[str, ...], ...]) -> Ring:
    sentences = ["".join(part[k % len(part)] for part in parts) for k in range(SENTENCES)]
    counts = [count_tokens(sentence) for sentence in sentences]
    encoded = [sentence.encode() for sentence in sentences]
    return Ring(
        data=b"".join(encoded),
        offsets=tuple(accumulate((len(piece) for piece in encoded), initial=0)),
        tokens=tuple(accumulate(counts, initial=0)),
        sentence_tokens_max=max(counts),
    )


ENGLISH = _ring(_ENGLISH)
CHINESE = _ring(_CHINESE)
