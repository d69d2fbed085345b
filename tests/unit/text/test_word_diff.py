"""Word diffs: what differs is marked, what does not is cut, and hostile texts take no time."""

import random
import time

import pytest

from batchrun.core.text.word_diff import CONTEXT_WORDS, word_diff


@pytest.mark.parametrize(
    ("before", "now", "shown"),
    [
        ("the sky is blue", "the sky is green", "the sky is [-blue-] {+green+}"),
        ("same", "same", "same"),
        ("", "new words", "{+new words+}"),
        ("old words", "", "[-old words-]"),
        ("", "", ""),
        ("a\nb\tc", "a b c", "a b c"),
        ("one two three", "one three", "one [-two-] three"),
    ],
)
def test_words(before, now, shown):
    """Words that left and words that came, in one line."""
    assert word_diff(before, now) == shown


def test_what_both_have_is_cut_to_the_words_around():
    """Of a long text with one change in the middle, the words around it are shown."""
    words = [f"w{n}" for n in range(100)]
    other = [*words[:50], "NEW", *words[51:]]
    shown = word_diff(" ".join(words), " ".join(other))
    around = CONTEXT_WORDS
    assert shown.split()[0] == "..."
    assert f"w{50 - around} " in shown
    assert f" w{50 - around - 1} " not in shown
    assert "[-w50-] {+NEW+}" in shown
    assert shown.endswith(f"w{50 + around} ...")


@pytest.mark.parametrize("size", [10_000_000])
def test_large_texts_are_quick_and_bounded(size):
    """10 MB of one word, of many, or that differ at their end, take well under a second."""
    dice = random.Random(1)
    many = " ".join(dice.choices("abcdefgh", k=100_000))
    other = " ".join(dice.choices("abcdefgh", k=100_000))
    words = "x " * (size // 2)
    pairs = [("x" * size, "y" * size), (words, words + "end"), (many, other)]
    for before, now in pairs:
        began = time.process_time()
        shown = word_diff(before, now)
        assert time.process_time() - began < 2
        assert len(shown) < 60_000
    assert "{+end+}" in word_diff(*pairs[1])
