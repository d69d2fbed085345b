"""A command line taken apart without a shell."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.core.settings.commands import redact_command, split_command


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gcloud auth print-access-token", ["gcloud", "auth", "print-access-token"]),
        ("pass show 'api key'", ["pass", "show", "api key"]),
        ('kubectl get x -o jsonpath="{.data.key}"', ["kubectl", "get", "x", "-o",
                                                     "jsonpath={.data.key}"]),
        ("sh -c 'a | b; $X'", ["sh", "-c", "a | b; $X"]),
        ("x --query='.a | .b'", ["x", "--query=.a | .b"]),
        (r"echo it\'s \$x", ["echo", "it's", "$x"]),
        (r"'b\' c", ["b\\", "c"]),
        ("a # b ~c a~b", None),
        ("a # b a~b", ["a", "#", "b", "a~b"]),
    ],
)  # fmt: skip
def test_quotes_mean_what_they_mean_in_a_shell(text, found):
    """And nothing else does."""
    if found is None:
        with pytest.raises(ValueError, match="shell"):
            split_command(text)
    else:
        assert split_command(text) == found


@pytest.mark.parametrize(
    "text",
    ["a | b", "a>b", "a <b", "a&&b", "a;b", "(a)", "$X", 'a "$X"', "a `b`", "~/a", "a ~", "a\nb"],
)
def test_what_only_a_shell_knows_is_refused(text):
    """With the way out, and without the text."""
    with pytest.raises(ValueError, match="sh -c") as caught:
        split_command(text)
    assert "X" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "  ", "a 'b", 'a "b', "a\\"])
def test_what_is_no_command_is_refused(text):
    """Nothing, and quotes that do not end."""
    with pytest.raises(ValueError, match=r"quote|expected"):
        split_command(text)


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1))
def test_what_was_quoted_comes_back(found):
    """Whatever the words are, quoted for a shell they are the same here."""
    assert split_command(shlex.join(found)) == found


def test_arguments_are_not_shown():
    """They may be credentials, and so may what cannot be read."""
    assert redact_command("echo sk-secret") == "echo ..."
    assert redact_command("helper") == "helper"
    assert redact_command("echo 'sk-secret") == "..."
