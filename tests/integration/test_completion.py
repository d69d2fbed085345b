"""``batchrun completion``: each script is run by its shell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BIN = Path(sys.executable).parent

# What each shell is told, and how it shows what it would offer for the words of a command line.
SHELLS = {
    "bash": """
source <(batchrun completion bash)
COMP_LINE="$WORDS"; COMP_WORDS=($WORDS); [[ $WORDS == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
compopt() { echo "compopt $1 $2"; }
_batchrun_completion batchrun; printf '%s\\n' "${COMPREPLY[@]}"
""",
    "zsh": """
autoload -U compinit && compinit -u -d $HOME/zcomp
source <(batchrun completion zsh)
words=(${(s: :)WORDS}); [[ $WORDS == *' ' ]] && words+=('')
CURRENT=${#words}
_describe() { print -l -- ${(P)${@[-2]}} }
compadd() { local i=${@[(i)-a]}; print -l -- ${(P)${@[i+1]}} }
_path_files() { print -l -- path_files $@ }
_batchrun_completion
""",
    "fish": """
batchrun completion fish | source
complete --do-complete "$WORDS"
""",
}


def offered(folder, shell, words):
    """The lines that a shell offers behind these words."""
    if shutil.which(shell) is None:
        assert shell != "bash", "bash is part of every system that this runs on"
        pytest.skip(f"{shell} is not installed")
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(folder), "WORDS": words}
    flags = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *flags, "-c", SHELLS[shell]],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    return done.stdout, done.stderr


CASES = [
    ("batchrun comp", ["compare", "completion"]),
    ("batchrun run --conc", ["--concurrency"]),
    ("batchrun run --provider g", ["groq", "gemini"]),
    ("batchrun run quiz.csv --id ", ["name", "question", "the answer"]),
    ("batchrun run quiz.csv --carry name,q", ["name,question"]),
    ("batchrun run rows.jsonl --send t", ["temperature", "topic"]),
    ("batchrun run -c config.toml --id q", ["question"]),
    ("batchrun run --retry-class auth,time", ["auth,timeout"]),
    ("batchrun show out --status ", ["ok", "error"]),
    ("batchrun show out --class con", ["content_filter", "context_length", "connection", "config"]),
    ("batchrun run --on-empty ", ["keep", "fail", "retry"]),
]


@pytest.fixture
def folder(tmp_path):
    """A folder with a table, rows and a config."""
    (tmp_path / "quiz.csv").write_text("name,question,the answer\n1,2,3\n")
    (tmp_path / "rows.jsonl").write_text('{"messages": [], "temperature": 0}\n{"topic": "x"}\n')
    (tmp_path / "config.toml").write_text('[input]\nfiles = ["quiz.csv"]\n')
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("words", "found"), CASES, ids=[words for words, _ in CASES])
def test_a_shell_offers_what_can_be_typed(folder, shell, words, found):
    """Commands, flags, choices, providers, error classes, and columns of the named input."""
    out, err = offered(folder, shell, words)
    for word in found:
        assert word in out, (out, err)
    assert not err, err


@pytest.mark.parametrize(
    "words", ["batchrun run rows.csv --id ", "batchrun run - --id ", "batchrun run"]
)
def test_bash_offers_nothing_where_nothing_is_known(folder, words):
    """A missing file, a pipe, a word that is complete: no message, no traceback, no waiting."""
    out, err = offered(folder, "bash", words)
    assert not err
    assert out.split() in ([], ["run", "runs"])


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("batchrun run ", "default"),
        ("batchrun run -c ", "default"),
        ("batchrun status ", "dirnames"),
        ("batchrun run --reuse ", "dirnames"),
        ("batchrun run -o ", "dirnames"),
    ],
)
def test_bash_completes_files_and_folders(folder, words, kind):
    """INPUT and -c take files, run directories are folders: bash completes both by itself."""
    out, err = offered(folder, "bash", words)
    assert f"compopt -o {kind}" in out, (out, err)


def test_columns_of_what_is_no_file_are_not_looked_for(monkeypatch):
    """Neither standard input nor an address is opened: completion must not wait."""
    from batchrun.cli.flags import completing

    context = SimpleNamespace(args=(), params={"inputs": ("-", "s3://b/rows.csv", "/dev/stdin")})
    monkeypatch.setattr("batchrun.adapters.sources.opening.column_names", None)
    assert completing.columns(context, None, "") == []


@pytest.mark.parametrize(
    "line", ["run quiz.csv --id", "run quiz.csv --stream -o out --id", "run -c config.toml --id"]
)
def test_columns_without_what_click_has_read(folder, monkeypatch, line):
    """Older releases of click give up the arguments of an unfinished line: its words are read."""
    from batchrun.cli.flags import completing

    monkeypatch.chdir(folder)
    monkeypatch.setenv("COMP_WORDS", f"batchrun {line} ")
    context = SimpleNamespace(args=(), params={})
    found = completing.columns(context, None, "")
    assert [each.value for each in found] == ["name", "question", "the answer"]


def test_an_unknown_shell_is_exit_2(cli):
    """The shells that there are scripts for are named."""
    done = cli("completion", "powershell")
    assert done.code == 2 and "fish" in done.err


def test_the_script_as_json(cli):
    """``--json`` holds the same script, as one object."""
    done = cli("completion", "bash", "--json")
    assert done.code == 0
    assert done.json == {"shell": "bash", "script": cli("completion", "bash").out.rstrip("\n")}
