"""``batchrun ctl``: change a run while it is live, from another terminal."""

from __future__ import annotations

import click

from batchrun.cli.console import exit_codes, print_json, print_message, print_output
from batchrun.cli.paths import FOLDER

ACTIONS = ("set", "pause", "resume", "drain")


@click.command("ctl")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("action", metavar="set|pause|resume|drain", type=click.Choice(ACTIONS))
@click.argument("values", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--checkpoint", type=FOLDER, metavar="DIR", help="Folder of the checkpoint, if not in DIR."
)
@click.option("--json", "as_json", is_flag=True, help="Print the limits as one JSON object.")
def command(
    folder: str, action: str, values: tuple[str, ...], checkpoint: str | None, *, as_json: bool
) -> None:
    """Change the live run in DIR and print the limits now in force.

    `set` changes limits: rpm=N, tpm=N (or none), concurrency=N, max_cost=USD; NAME.rpm=N sets it
    for one of several endpoints. `pause` holds all requests until `resume`. `drain` lets requests
    in flight finish and stops the run.

    Changes last until the session ends. Only the user who started the run can make them. If
    several processes share the run, the changes apply to all of them, on every machine.
    """
    with exit_codes(as_json=as_json):
        from batchrun.core.run import controls
        from batchrun.errors import UsageError
        from batchrun.views import control

        if action != "set" and values:
            message = f"{action} takes no values, such as {values[0]!r}; did you mean set?"
            raise UsageError(message)
        wanted = controls.parse_values(values) if action == "set" else None
        run = control.LiveRun(folder, checkpoint)
        held = run.ask(action, wanted)
        if action == "drain":
            print_message("draining: requests in flight finish, then the run stops")
            held = run.ended()
        if as_json:
            print_json(held)
            return
        for line in control.lines(held):
            print_output(line)
