import os
import subprocess
import sys
from pathlib import Path

import click.testing
import pytest

from batchrun.cli.simulate import command
from batchrun.simulator.plan import SimulatorOptions
from batchrun.simulator.rejections import INJECTED, mask

PACKAGE = Path(__file__).parents[3] / "batchrun"


@pytest.mark.parametrize(
    "options",
    [
        {"host": "0.0.0.0"},  # noqa: S104  what must be refused
        {"host": "example.com"},
        {"port": -1},
        {"port": 65536},
        {"seed": 2**63},
        {"models": ("a", "")},
        {"api_key": ""},
        {"reply_bytes": 0},
        {"fail_first": -1},
        {"rpm": 0},
        {"tpm": float("nan")},
        {"rpm_window_s": 0},
        {"tpm_window_s": -1},
        {"retry_after_s": float("inf")},
        {"error_rates": {"418": 0.1}},
        {"error_rates": {"drop": 0.1}},
        {"drop_rate": 1.5},
        {"cut_rate": 0.6, "stall_rate": 0.6},
    ],
)
def test_what_cannot_be_simulated_cannot_be_built(options):
    """A bad value raises ValueError when the options are built."""
    with pytest.raises(ValueError, match=r"."):
        SimulatorOptions(**options)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_hosts_are_taken(host):
    """Every name of this machine's own interface will do."""
    assert SimulatorOptions(host=host).host == host


def test_the_key_is_not_in_the_repr():
    """Options may be logged."""
    assert "secret" not in repr(SimulatorOptions(api_key="secret"))


@pytest.mark.parametrize(
    ("key", "masked"),
    [("sk-abcdefghijklmnop", "sk-a***********mnop"), ("short", "*****"), ("", "")],
)
def test_a_masked_key_shows_its_ends_only(key, masked):
    """Four characters at each end of a long key, nothing of a short one."""
    assert mask(key) == masked


def test_injected_errors_have_the_status_they_are_called_by():
    """A name begins with its status; the one that does not is a 429."""
    statuses = {name: reply.status for name, reply in INJECTED.items()}
    assert statuses.pop("quota") == 429
    assert all(name[:3] == str(status) for name, status in statuses.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--error", "503"], "503=0.05"),
        (["--error", "418=0.1"], "418"),
        (["--error", "500=2"], "between 0 and 1"),
        (["--latency", "slow"], "per-token"),
        (["--host", "0.0.0.0"], "loopback"),  # noqa: S104  what must be refused
        (["--rpm", "0"], "rpm"),
        (["--drop", "0.7", "--cut", "0.7"], "add up"),
    ],
)
def test_bad_flags_are_usage_errors(arguments, message):
    """Exit code 2 and a message that names what is wrong."""
    result = click.testing.CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_importing_the_command_imports_no_server():
    """`--help` of the whole program stays quick: no aiohttp, asyncio or simulator before use."""
    heavy = ("asyncio", "aiohttp", "uvloop", "msgspec", "batchrun.simulator")
    code = f"import sys, batchrun.cli.simulate; print([m for m in {heavy} if m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    ).stdout
    assert printed.strip() == "[]"


def test_the_simulator_knows_nothing_of_the_engine():
    """It stands beside the program it serves: none of its modules imports the program's."""
    for path in (PACKAGE / "simulator").glob("*.py"):
        for line in path.read_text().splitlines():
            if line.lstrip().startswith(("import batchrun", "from batchrun")):
                assert line.startswith("from batchrun.simulator"), path.name
