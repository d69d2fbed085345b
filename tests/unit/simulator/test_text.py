import pytest

from batchrun.simulator.writing.draws import seed_key
from batchrun.simulator.writing.filler import CHINESE, ENGLISH, SENTENCES
from batchrun.simulator.writing.text import write_passage
from batchrun.simulator.writing.tokens import count_tokens, cut_to_tokens

KEY = seed_key(0)
DIGESTS = [bytes([k]) * 32 for k in range(100)]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        (" \n\t ", 0),
        ("four", 1),
        ("fives", 2),
        ("a b\nc", 3),
        ("法国的首都", 5),
        ("法国，巴黎。", 6),
        ("法国\u3000首都", 4),
        ("GPT在2024年", 4),
        ("naïve café", 3),
        ("한국 カナ 𠀀", 5),
    ],
)
def test_tokens_follow_the_documented_rule(text, tokens):
    """One token per CJK character, one per four characters of any other word."""
    assert count_tokens(text) == tokens


@pytest.mark.parametrize(
    "text", ["one sentence of some lengthy words", "混合 mixed文字here, 完。", ""]
)
def test_a_cut_is_the_longest_beginning_that_fits(text):
    """The cut counts at most the limit, and one more character would count more."""
    for limit in range(count_tokens(text) + 2):
        cut = cut_to_tokens(text, limit)
        assert text.startswith(cut)
        assert count_tokens(cut) == min(limit, count_tokens(text))
        if len(cut) < len(text):
            longer = text[: len(cut) + 1]
            assert count_tokens(longer) > limit or longer[-1].isspace()


def test_a_passage_has_a_natural_length_and_true_counts():
    """Without a size an answer has 40 to 120 tokens, counted from its real text."""
    sizes = set()
    for digest in DIGESTS:
        for said in ("Why is the sky blue?", "天空为什么是蓝色的？", "x" * 5000, ""):
            passage = write_passage(KEY, digest, 0, said)
            assert passage.tokens == count_tokens(passage.content)
            assert 40 <= passage.tokens <= 120
            assert passage.finish_reason == "stop"
            sizes.add(passage.tokens)
    assert len(sizes) > 30


def test_the_first_line_names_its_request():
    """The quoted message and the tag show which request an answer belongs to."""
    digest = bytes.fromhex("8b0f7b99" + "00" * 28)
    said = "Translate\nthis: " + "word " * 20
    first = write_passage(KEY, digest, 0, said).content.splitlines()[0]
    assert first == 'Re: "Translate this: word word word word word" [8b0f7b99]'


def test_chinese_is_answered_in_chinese():
    """A CJK character in the last user message chooses the Chinese filler."""
    lines = write_passage(KEY, DIGESTS[0], 0, "what does 你好 mean").content.splitlines()
    assert lines[0].startswith("关于「what does 你好 mean」")
    assert not lines[1].isascii()


def test_text_depends_on_request_seed_and_choice_only():
    """Equal inputs give equal text; another request, seed or choice gives another."""
    first = write_passage(KEY, DIGESTS[0], 0, "same")
    assert write_passage(KEY, DIGESTS[0], 0, "same") == first
    others = {
        write_passage(KEY, DIGESTS[1], 0, "same").content,
        write_passage(seed_key(1), DIGESTS[0], 0, "same").content,
        write_passage(KEY, DIGESTS[0], 1, "same").content,
    }
    assert len({first.content, *others}) == 4


@pytest.mark.parametrize("said", ["Why is the sky blue?", "天空为什么是蓝色的？"])
@pytest.mark.parametrize("size", [1, 2, 3, 10, 47, 500, 2000, 50_000, 300_000])
def test_reply_bytes_sets_the_size(said, size):
    """The content has the asked size, less at most a torn character at its two seams."""
    for digest in DIGESTS[:10]:
        passage = write_passage(KEY, digest, 0, said, reply_bytes=size)
        assert size - 3 <= len(passage.content.encode()) <= size
        assert passage.tokens == count_tokens(passage.content)


@pytest.mark.parametrize("tokens_max", [1, 2, 15, 39])
def test_a_token_limit_cuts_and_says_so(tokens_max):
    """`finish_reason` is length, and the tokens are exactly the limit."""
    passage = write_passage(KEY, DIGESTS[0], 0, "Why?", tokens_max=tokens_max)
    assert passage.finish_reason == "length"
    assert passage.tokens == count_tokens(passage.content) == tokens_max


def test_a_token_limit_that_suffices_changes_nothing():
    """A limit equal to the natural length neither cuts nor says so."""
    whole = write_passage(KEY, DIGESTS[0], 0, "Why?")
    assert write_passage(KEY, DIGESTS[0], 0, "Why?", tokens_max=whole.tokens) == whole


@pytest.mark.parametrize("ring", [ENGLISH, CHINESE])
def test_a_stretch_may_run_around_the_ring(ring):
    """Counts stay true where a stretch passes the end of the ring, once or many times."""
    for start in (0, 1, SENTENCES - 1):
        for tokens in (1, 60, 100_000):
            text, counted = ring.by_tokens(start, tokens)
            assert counted == count_tokens(text)
            assert counted > min(tokens, ring.tokens[-1]) - ring.sentence_tokens_max
        for size in (0, 1, 5000, 3 * len(ring.data)):
            text, counted = ring.by_bytes(start, size)
            assert counted == count_tokens(text)


def test_no_sentence_comes_twice():
    """The rings hold as many different sentences as they have."""
    for ring in (ENGLISH, CHINESE):
        bounds = zip(ring.offsets, ring.offsets[1:], strict=False)
        assert len({ring.data[begin:end] for begin, end in bounds}) == SENTENCES
