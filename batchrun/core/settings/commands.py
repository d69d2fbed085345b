"""A command written as one line of text, taken apart without a shell."""

from __future__ import annotations

import shlex

_OPERATORS = frozenset("();<>|&\n")
_EXPANSIONS = frozenset("$`")


def split_command(text: str) -> list[str]:
    """The program and its arguments, by the shell's rules of quoting and none of its others.

    Raises ``ValueError`` saying why it is none: what only a shell would understand is refused, so
    that it is not passed on as it stands. The text is not repeated.
    """
    try:
        found = shlex.split(text)
    except ValueError:
        message = "a quote in the command is not closed"
        raise ValueError(message) from None
    if not found:
        message = "expected a command, such as 'gcloud auth print-access-token'"
        raise ValueError(message)
    if "\0" in text:
        message = "the command holds a NUL character"
        raise ValueError(message)
    if _needs_shell(text):
        message = (
            "the command runs without a shell, which alone knows pipes, redirections, variables "
            "and ~; if you need one, write: sh -c '...'"
        )
        raise ValueError(message)
    return found


def redact_command(text: str) -> str:
    """A command as it may be shown: its arguments may be credentials."""
    try:
        program, *arguments = split_command(text)
    except ValueError:
        return "..."
    return f"{program} ..." if arguments else program


def _needs_shell(text: str) -> bool:
    """Whether a shell would see more in it than words: anything special outside quotes, or an
    expansion in double quotes.
    """
    quote, escaped, start = "", False, True
    for letter in text.strip():
        if escaped or letter == "\\":
            # Within single quotes a backslash is one.
            escaped = not escaped and quote != "'"
        elif quote:
            if letter == quote:
                quote = ""
            elif quote == '"' and letter in _EXPANSIONS:
                return True
        elif letter in "'\"":
            quote = letter
        elif letter in _OPERATORS or letter in _EXPANSIONS or (start and letter == "~"):
            return True
        start = not quote and letter.isspace()
    return False
