"""``batchrun completion``: a script that makes a shell complete batchrun's words."""

from __future__ import annotations

import click

from batchrun.cli.console import exit_codes, print_json, print_lines

PROGRAM, VARIABLE = "batchrun", "_BATCHRUN_COMPLETE"


@click.command("completion")
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--json", "as_json", is_flag=True, help="Print the script as one JSON object.")
def command(shell: str, as_json: bool) -> None:
    """Print a completion script for SHELL: bash, zsh or fish.

    Completes commands, flags, files, run directories, providers, error classes, and the columns of
    the input for --id, --carry and --send. To turn it on in the current shell:

    \b
      bash  source <(batchrun completion bash)
      zsh   source <(batchrun completion zsh)
      fish  batchrun completion fish | source

    For every new shell, put that line into ~/.bashrc, ~/.zshrc (below compinit) or
    ~/.config/fish/config.fish.
    """  # noqa: D301 - click's own mark: the paragraph is not wrapped
    with exit_codes(as_json=as_json):
        script = script_for(shell)
        if as_json:
            print_json({"shell": shell, "script": script})
        else:
            print_lines(script.splitlines())


def script_for(shell: str) -> str:
    """The script, made by click. Its check of bash's version is left out: the script may be meant
    for another machine.
    """
    from click.shell_completion import ShellComplete, get_completion_class

    from batchrun.cli.main import main

    kind = get_completion_class(shell)
    assert kind is not None
    script = ShellComplete.source(kind(main, {}, PROGRAM, VARIABLE)).strip()
    # click's script for fish takes a comma within a word for the end of it.
    return script.replace('string split ","', 'string split --max 1 ","')
