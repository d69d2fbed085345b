"""What ``-h`` and ``--help`` print: groups, examples, one screen."""

import re
import shlex

import click
import pytest

from batchrun.cli.flags.help_pages import Flag, Grouped, group_of
from batchrun.cli.main import COMMANDS, SECTIONS, main
from batchrun.core.settings.table import FLAGGED, GROUPS

CONTEXT = click.Context(main, info_name="batchrun")
BIG = ("run", "validate", "estimate", "doctor", "simulate")


def command(name):
    """A command by its name."""
    return main.get_command(CONTEXT, name)


def headings(text):
    """The headings of a help page."""
    return re.findall(r"^(\S.*):$", text, re.MULTILINE)


def test_the_flags_of_run_are_grouped(cli):
    """Every group has its heading, in order, below three examples, and no flag is without one."""
    done = cli("run", "--help")
    assert done.code == 0
    found = headings(done.out)
    assert found[0] == "Examples"
    assert found[1:] == [*GROUPS, "Options"]
    assert done.out.count("\n  batchrun run ") == 3
    loose = [each.opts for each in command("run").params if group_of(each) == "Options"
             if isinstance(each, click.Option) and not each.hidden]  # fmt: skip
    assert loose == []


def test_every_setting_has_a_group():
    """A new row of the table is listed under a heading that exists."""
    assert {setting.heading for setting in FLAGGED if setting.flag} <= set(GROUPS)


@pytest.mark.parametrize("name", BIG[:4])
def test_the_short_page_fits_a_screen(cli, name):
    """``-h`` has at most 24 lines of 80 columns, the most used flags, and names the full page."""
    done = cli(name, "-h")
    assert done.code == 0
    lines = done.out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert headings(done.out) == ["Examples", "Most used flags"]
    assert re.fullmatch(rf"All flags: .*{name} --help", lines[-1])
    full = cli(name, "--help").out
    shown = re.findall(r"^  (?:-\w, )?(--[\w-]+)", done.out, re.MULTILINE)
    assert len(shown) >= 3
    assert all(flag in full for flag in shown)


@pytest.mark.parametrize("name", BIG)
def test_every_example_can_be_typed(name):
    """Examples name commands and flags that exist, with values where one is needed."""
    found = command(name)
    assert isinstance(found, Grouped) and len(found.examples) == 3
    for line in found.examples:
        program, verb, *words = shlex.split(line)
        assert (program, verb) == ("batchrun", name)
        found.make_context(name, words, parent=CONTEXT)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_short_and_in_one_voice(name):
    """A flag's text is a sentence or two of at most 200 characters, without an article in front."""
    for each in command(name).params:
        if not isinstance(each, click.Option) or each.hidden:
            continue
        text = each.help
        assert text and text[0].isupper() and text.endswith((".", "]")), (name, each.opts, text)
        assert len(text) <= 200 or name == "simulate", (name, each.opts, len(text))
        assert not re.match(r"(The|An?) ", text), (name, each.opts, text)
    summary = COMMANDS[name]
    assert len(summary) <= 70 and summary.endswith("."), summary


def test_every_command_is_listed_once(cli):
    """The sections of ``batchrun --help`` hold every command, with its summary."""
    text = cli("--help").out
    assert headings(text) == ["Options", *SECTIONS, "Setup"]
    listed = [name for name in re.findall(r"^  (\w+) {2,}\S", text, re.MULTILINE) if name]
    assert sorted(listed) == sorted(COMMANDS)
    assert {name for names in SECTIONS.values() for name in names} <= COMMANDS.keys()


def test_a_wide_terminal_does_not_make_long_lines():
    """However wide the terminal is, lines end where they can be read."""
    ctx = click.Context(command("run"), parent=CONTEXT, terminal_width=None, max_content_width=100)
    assert all(len(line) <= 100 for line in ctx.get_help().splitlines())


def test_a_flag_keeps_its_name_on_one_line():
    """Text is wrapped at spaces alone, so that a flag within it can be searched for and copied."""
    flag = Flag(["--x"], group="Input", help=f"{'word ' * 11}--on-truncation-of retry.")
    found = Grouped("c", params=[flag])
    assert "--on-truncation-of" in found.get_help(click.Context(found, terminal_width=80))
