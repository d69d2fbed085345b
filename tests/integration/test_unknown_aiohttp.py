"""Whole runs under releases of aiohttp that do not exist yet: copies of the installed one, in which
something that is not documented has another name, place or shape.
"""

import re
import shutil
from pathlib import Path

import aiohttp
import pytest

from tests.harness.slow import rest_slow

INSTALLED = Path(aiohttp.__file__).parent
UNKNOWN = "3.99.0"


@pytest.fixture
def releases(tmp_path):
    """Makes a release in which ``changes`` (a regular expression each, and what comes in its
    place) hold everywhere and modules are ``moved``; returns the environment of a run with it.
    """

    def make(changes=(), moved=()):
        release = tmp_path / "release" / "aiohttp"
        shutil.copytree(INSTALLED, release, ignore=shutil.ignore_patterns("__pycache__"))
        found = set()
        for file in release.rglob("*.py"):
            text = file.read_text("utf-8")
            for pattern, new in changes:
                text, times = re.subn(pattern, new, text)
                if times:
                    found.add(pattern)
            for name in moved:
                text = re.sub(rf"(from|import) \.{name}\b", rf"\1 ._{name}", text)
            if file == release / "__init__.py":
                text = re.sub(r'__version__ = ".*"', f'__version__ = "{UNKNOWN}"', text)
            file.write_text(text, "utf-8")
        assert len(found) == len(changes), "aiohttp has changed: write the case again"
        for name in moved:
            (release / f"{name}.py").rename(release / f"_{name}.py")
            for built in release.glob("*.so"):
                built.unlink()  # they import it under its old name; the parser in Python takes over
        return {"PYTHONPATH": str(release.parent)}

    return make


CASES = {
    "a method has another name": {"changes": [(r"\bset_response_params\b", "expect_response")]},
    "a method takes other arguments": {"changes": [(r"\bread_bufsize\b", "read_buffer_size")]},
    "a method wants one argument more": {
        "changes": [
            (r'(traces: list\["?Trace"?\], timeout: "?ClientTimeout"?)\n    \) -> Connection:',
             r"\1, *, hurry: bool\n    ) -> Connection:"),
            (r"(connector\.connect\(\s+req, traces=traces, timeout=real_timeout)",
             r"\1, hurry=False"),
        ]
    },
    "a property is a method": {
        "changes": [
            (r"@property\n    (def should_close\(self\) -> bool:\n        return bool\()", r"\1"),
            (r"(protocol|connection\.protocol)\.should_close\b", r"\1.should_close()"),
        ]
    },
    "an attribute has another name": {"changes": [(r"\b_buffer\b", "_pieces")]},
    "an attribute is counted otherwise": {
        "changes": [(r"\btotal_bytes\b", "bytes_in_all")]
    },
    "the protocol lies elsewhere": {"moved": ["client_proto"]},
    "the parser's errors lie elsewhere": {"moved": ["http_exceptions"]},
}  # fmt: skip


@pytest.mark.parametrize("case", rest_slow(CASES))
def test_a_run_goes_the_plain_way(cli, simulator, jsonl, published, releases, case):
    """Every row is answered, over kept connections, and one line says why that costs more."""
    endpoint = simulator(error_rates={"500": 0.1}, drop_rate=0.05, cut_rate=0.05, seed=3)
    done = cli.run(
        *(jsonl(60), "-o", "run", "--base-url", endpoint.base_url),
        *("--no-progress", "--concurrency", 4),
        env=releases(**CASES[case]),
    )
    assert done.code == 0, done.err
    said = [line for line in done.err.splitlines() if "aiohttp" in line]
    assert len(said) == 1 and said[0].startswith("warning:"), done.err
    assert UNKNOWN in said[0] and "pip install" in said[0]
    assert published(cli.folder / "run").num_rows == 60
    assert "Traceback" not in done.err
    cli.verified("run")


def test_several_endpoints_are_one_notice(cli, simulator, jsonl, releases):
    """What holds for all endpoints is said once, streamed runs included."""
    tables = [
        f'[[endpoint]]\nname = "{name}"\nbase_url = "{simulator(seed=seed).base_url}"\n'
        for seed, name in enumerate(("one", "two"))
    ]
    (cli.folder / "run.toml").write_text("".join(tables))
    done = cli.run(
        *(jsonl(40), "-c", "run.toml", "-o", "run", "--no-progress", "--stream"),
        env=releases(**CASES["an attribute has another name"]),
    )
    assert done.code == 0, done.err
    assert done.err.count("aiohttp 3.99.0") == 1
    cli.verified("run")


def test_a_known_release_says_nothing(cli, simulator, jsonl):
    """The usual run has nothing to tell of aiohttp."""
    base_url = simulator().base_url
    done = cli.run(jsonl(5), "-o", "run", "--base-url", base_url, "--no-progress")
    assert done.code == 0 and "aiohttp" not in done.err
