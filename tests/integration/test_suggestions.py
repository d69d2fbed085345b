"""What is said to a flag or a command that does not exist."""

import click
import pytest

from batchrun.cli.flags import suggestions
from batchrun.cli.main import COMMANDS, main
from batchrun.core.settings.parameters import SENT


def flags_of(name):
    """The flags of a command."""
    found = main.get_command(click.Context(main), name)
    return {word for each in found.params for word in (*each.opts, *each.secondary_opts)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--rate-limit", "5"], "Use --rpm N"),
        (["run", "--max-requests-per-minute", "5"], "Use --rpm N"),
        (["run", "--max_tokens_per_minute", "5"], "Use --tpm N"),
        (["run", "--resume"], "the same command resumes"),
        (["run", "--output-file", "x"], "Use -o"),
        (["run", "--num-workers", "5"], "Use --concurrency N"),
        (["run", "--batch-size", "5"], "--concurrency N"),
        (["run", "--input-file", "x"], "batchrun run FILE -o DIR"),
        (["run", "-n", "5"], "Use --limit N"),
        (["run", "--api-key", "sk-secret"], "OPENAI_API_KEY"),
        (["run", "--top-k", "5"], "--param top_k=JSON"),
        (["run", "--max_tokens", "5"], "Did you mean --max-tokens?"),
        (["run", "--concurency", "5"], "Did you mean --concurrency"),
        (["run", "--conc", "5"], "Did you mean --concurrency?"),
        (["run", "--Model", "m"], "Did you mean --model?"),
        (["export", "d", "--output-file", "x"], "Use -o"),
        (["--model", "m", "run"], "after the command"),
        (["runn"], "Did you mean 'run'?"),
        (["RUN"], "Did you mean 'run'?"),
        (["resume", "out"], "resumes"),
        (["mock"], "Did you mean 'simulate'?"),
    ],
    ids=" ".join,
)
def test_what_was_meant_is_named(cli, words, said):
    """Typing errors, other tools' flags and parameters of requests: exit 2, and what to type."""
    done = cli(*words)
    assert done.code == 2
    assert said in done.err.splitlines()[-1]
    assert "sk-secret" not in done.err
    assert done.out == ""


def test_a_flag_of_another_command_is_not_advised(cli):
    """Advice names only flags that the command has."""
    done = cli("status", "x", "--rate-limit", "5")
    assert done.code == 2 and done.err.splitlines()[-1] == "Error: No such option --rate-limit."


def test_a_file_in_the_place_of_a_command_is_run(cli):
    """Its name is put into the command that was meant."""
    (cli.folder / "rows.jsonl").write_text("{}\n")
    done = cli("rows.jsonl")
    assert done.code == 2 and "batchrun run rows.jsonl -o DIR" in done.err


def test_the_table_leads_somewhere():
    """Every flag in it exists, no name is a flag of `run` or in it twice, and no parameter hides
    another meaning.
    """
    run, seen = flags_of("run"), set()
    known = run.union(*map(flags_of, COMMANDS))
    for foreign in suggestions.FLAGS:
        assert not foreign.flag or foreign.flag in known, foreign.flag
        for name in foreign.names.split():
            assert f"--{name}" not in run, name
            if foreign.flag in run:
                assert (name not in seen) or foreign.flag == "--carry", name
                seen.add(name)
    words = [word for names, _ in suggestions.COMMANDS for word in names.split()]
    assert len(set(words)) == len(words) and not COMMANDS.keys() & set(words)
    for _, advice in suggestions.COMMANDS:
        quoted = advice.split("'")[1::2]
        assert set(quoted) <= COMMANDS.keys(), advice
    assert "top_k" in SENT
