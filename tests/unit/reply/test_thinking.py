"""Reasoning between tags: what is moved out of the content, and what stays."""

import pytest

from batchrun.core.reply.thinking import TAGS, split
from batchrun.core.settings.reasoning_models import MODELS, implied_by
from batchrun.core.verdict.answer_checks import Policy, flaw_of, made_of
from batchrun.records import NO_USAGE, Choice, Completion


def _choice(content, finish="stop", reasoning=None, index=0):
    return Choice(index, content, reasoning, None, finish, None, None)


def _completion(*choices):
    several = choices if len(choices) > 1 else None
    return Completion(choices[0], several, "m", "id", None, None, None, NO_USAGE)


def _split(content, finish="stop", reasoning=None):
    first = split(_completion(_choice(content, finish, reasoning))).first
    return first.reasoning, first.content


@pytest.mark.parametrize(
    ("content", "reasoning", "left"),
    [
        pytest.param("<think>hm</think>yes", "hm", "yes", id="a block"),
        pytest.param("<think>\nhm\n</think>\n\nyes\n", "hm", "yes\n", id="white space at seams"),
        pytest.param("\n <think>hm</think>yes", "hm", "yes", id="white space before"),
        pytest.param("<Think>hm</THINK>yes", "hm", "yes", id="case"),
        pytest.param("<think></think>yes", None, "yes", id="an empty block"),
        pytest.param("<think>\n\n</think>\n\nyes", None, "yes", id="a blank block (Qwen)"),
        pytest.param("<think>hm</think>", "hm", None, id="no answer"),
        pytest.param("<think>a</think>\n<think>b</think>c", "a\n\nb", "c", id="two blocks"),
        pytest.param("<think>a</think>b<think>c</think>", "a", "b<think>c</think>", id="later"),
        pytest.param("<think>a <think> b</think>c", "a <think> b", "c", id="a tag in a block"),
        pytest.param("hm\n</think>\n\nyes", "hm", "yes", id="opened by the template"),
        pytest.param("so it is.</think>Yes", "so it is.", "Yes", id="the same on one line"),
        pytest.param("so it is. </think> Yes", "so it is.", "Yes", id="the same, with blanks"),
        pytest.param("</think>yes", None, "yes", id="a closing tag alone"),
        pytest.param("is it 'x'?</think>\n'x'", "is it 'x'?", "'x'", id="a quote on both sides"),
    ],
)
def test_reasoning_at_the_start_is_moved(content, reasoning, left):
    """A block at the start, and the end of one that the chat template opened."""
    assert _split(content) == (reasoning, left)


@pytest.mark.parametrize(
    "content",
    [
        "Use the <think> tag.",
        "Use the </think> tag to close it.",
        "Close it with </think>.",
        "`<think>` opens, `</think>` closes.",
        "Write `</think>` at the end.",
        'The text "</think>" ends it',
        "First <think>, then </think>\n",
        "yes\n<think>hm</think>",
        "<think> opens a block of reasoning.",
        "<thinker>x</thinker>",
        '{"text": "a</think>b"}',
        "a < b",
        "",
        None,
    ],
)
def test_text_that_speaks_of_tags_stays(content):
    """Nothing is cut out of the middle of a text, and nothing is guessed."""
    whole = _completion(_choice(content))
    assert split(whole) is whole


@pytest.mark.parametrize(("opening", "closing"), [tags[:2] for tags in TAGS])
def test_every_kind_of_tag(opening, closing):
    """Each pair of the table is split, also where a token limit came before its end."""
    assert _split(f"{opening}hm{closing}yes") == ("hm", "yes")
    assert _split(f"hm\n{closing}\nyes") == ("hm", "yes")
    assert _split(f"{opening}hm", "length") == ("hm", None)


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS"])
def test_a_block_that_was_cut_off(finish):
    """All of it is reasoning: the limit came before the answer began."""
    assert _split("<think>hm, well", finish) == ("hm, well", None)
    assert _split("<think>hm</think>ye", finish) == ("hm", "ye")
    assert _split("<think>", finish) == (None, None)


@pytest.mark.parametrize("finish", ["stop", None, "content_filter"])
def test_a_block_that_is_never_closed_stays(finish):
    """Without a token limit nobody can tell where the answer begins."""
    assert _split("<think>hm, well", finish) == (None, "<think>hm, well")


@pytest.mark.parametrize(
    ("given", "joined"),
    [(None, "hm"), ("", "hm"), (" ", "hm"), ("hm", "hm"), ("hm, well", "hm, well"),
     ("why", "why\n\nhm")],
)  # fmt: skip
def test_reasoning_that_the_server_gave_too(given, joined):
    """What is in both places is there once; what differs is all there."""
    assert _split("<think>hm</think>yes", reasoning=given) == (joined, "yes")


def test_a_server_that_splits_leaves_no_lone_tag():
    """Where the server took the reasoning out, a closing tag in the content is text."""
    assert _split("so</think>yes", reasoning="hm") == ("hm", "so</think>yes")


def test_every_choice_is_split():
    """Each of several answers has its own reasoning, and the first is the first."""
    whole = _completion(_choice("<think>a</think>b"), _choice("c", index=1))
    found = split(whole)
    assert [(c.reasoning, c.content) for c in found.choices] == [("a", "b"), (None, "c")]
    assert found.first == found.choices[0]


def test_what_is_kept_is_not_looked_at():
    """Without the policy the content stays as it was sent; with it, reasoning alone is empty."""
    whole = _completion(_choice("<think>hm", "length"))
    assert made_of(whole, None, Policy()) is whole
    made = made_of(whole, None, Policy(think="split"))
    flaw = flaw_of(made, None, Policy(on_empty="fail"))
    assert flaw.error_class == "empty_output" and "only reasoning" in flaw.message


@pytest.mark.parametrize(
    "model",
    [
        "deepseek-r1", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "deepseek-r1:14b",
        "deepseek/deepseek-r1-0528:free", "r1-1776", "deepseek-reasoner", "Qwen/QwQ-32B",
        "qwen3-235b-a22b", "Qwen/Qwen3-30B-A3B-Thinking-2507", "magistral-medium-2506",
        "kimi-k2-thinking", "sonar-reasoning-pro", "microsoft/Phi-4-reasoning", "zai-org/GLM-4.5",
        "MiniMaxAI/MiniMax-M2", "nvidia/Llama-3_3-Nemotron-Super-49B", "OpenThinker-7B",
        "LGAI-EXAONE/EXAONE-Deep-32B", "ByteDance-Seed/Seed-OSS-36B-Instruct",
    ],
)  # fmt: skip
def test_models_whose_name_implies_tags(model):
    """As their makers and their hosts write the names."""
    assert implied_by([model])
    assert implied_by(["mine", model])


@pytest.mark.parametrize(
    "model",
    ["gpt-4o", "m", "sim-small", "claude-sonnet-4", "gpt-oss-120b", "llama-3.1-8b", "qwen2.5-72b",
     "mistral-large", "deepseek-chat", "glm-4", "gemini-2.5-pro", "command-r1x", "er1c", ""],
)  # fmt: skip
def test_other_models_are_left_alone(model):
    """A name that says nothing implies nothing."""
    assert not implied_by([model])


def test_every_row_of_the_tables_has_its_source():
    """A tag or a model without evidence does not belong there."""
    assert all(source for *_, source in TAGS) and all(source for _, source in MODELS)
