"""The clients that are compared: batchrun, the bare loop, and other libraries in environments of
their own, each with a script in `peers/` and its pinned requirements beside it.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness import HERE, ROOT, Certificate

INSTALL_LIMIT_S = 900
ENVIRONMENTS = ROOT / ".venv" / "peers"
VERSIONS = (
    "import importlib.metadata as m, json, sys; "
    "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
)
OK_ROWS = (
    "import sys, pyarrow.dataset as d; "
    "print(d.dataset(sys.argv[1]).count_rows(filter=d.field('status') == 'ok'))"
)


class NotInstalledError(Exception):
    """A peer's environment could not be made; the message is pip's last line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a client is told of the server's limits; None: nothing."""

    rpm: int | None = None
    tpm: int | None = None

    def flags(self) -> list[str]:
        """The flags that tell them."""
        said = (("--rpm", self.rpm), ("--tpm", self.tpm))
        return [part for flag, limit in said if limit for part in (flag, str(limit))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """A way to run a data set. ``limits`` are those that it can keep by itself."""

    name: str
    script: (
        str  # in the folder peers/; or a module of this project, with the environment that it has
    )
    packages: tuple[str, ...]  # whose versions matter
    limits: frozenset[str] = frozenset()
    flags: tuple[str, ...] = ()
    unlimited_flags: tuple[str, ...] = ()  # for a server without limits

    @property
    def is_peer(self) -> bool:
        """Whether it has an environment of its own."""
        return self.script.startswith("peers/")

    @property
    def python(self) -> Path:
        """The interpreter that runs it."""
        if not self.is_peer:
            return Path(sys.executable)
        return ENVIRONMENTS / Path(self.script).stem / "bin" / "python"

    def install(self) -> dict[str, str]:
        """Make the environment unless it is there; returns the versions of ``packages``.

        Raises NotInstalledError.
        """
        if self.is_peer:
            _install(self.python.parents[1], (HERE / self.script).with_suffix(".txt"))
        found = subprocess.run(
            [str(self.python), "-c", VERSIONS, *self.packages],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode:
            raise NotInstalledError(_last_line(found.stderr))
        return dict(json.loads(found.stdout))

    def command(
        self,
        source: Path,
        base_url: str,
        concurrency: int,
        *,
        limits: Limits | None,
        attempts: int = 3,
    ) -> list[str]:
        """The command that runs ``source``; without ``limits`` the server has none.

        Its answers are beside the source, in what ``output`` returns.
        """
        told = [*self.flags, *(self.unlimited_flags if limits is None else limits.flags())]
        told += ["--base-url", base_url, "--concurrency", str(concurrency)]
        target = str(self.output(source))
        if self.name == "batchrun":
            command = [str(self.python), "-m", "batchrun", "run", str(source), "-o", target]
            return [*command, "--model", "m", "--no-progress", *told]
        if self.is_peer:
            told += ["--attempts", str(attempts)]
        return [str(self.python), str(HERE / self.script), str(source), target, *told]

    def output(self, source: Path) -> Path:
        """Where the answers to ``source`` go."""
        return source.with_name("output" if self.name == "batchrun" else "answers.jsonl")

    def environ(self, tls: Certificate | None) -> dict[str, str]:
        """What its environment has beside the usual."""
        env = {"PYTHONPATH": ""} if self.is_peer else {}
        if tls is not None:
            trusted = str(tls.authority)
            env |= {"SSL_CERT_FILE": trusted, "REQUESTS_CA_BUNDLE": trusted}
        return env

    def answered(self, source: Path) -> int:
        """How many rows have an answer in the output."""
        target = self.output(source)
        if self.name == "batchrun":
            command = [sys.executable, "-c", OK_ROWS, str(target / "results")]
            counted = subprocess.run(command, capture_output=True, text=True, check=True)
            return int(counted.stdout)
        with target.open(encoding="utf-8") as lines:
            return len({row["row"] for row in map(json.loads, lines) if row.get("content")})


def _install(room: Path, requirements: Path) -> None:
    stamp = room / "installed.txt"
    wanted = requirements.read_text("utf-8")
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return
    print(f"installing {wanted.strip()} into {room}", file=sys.stderr, flush=True)
    pip = [str(room / "bin" / "python"), "-m", "pip", "-qq", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(room)],
        [*pip, "install", "-r", str(requirements)],
    ):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise NotInstalledError(f"took more than {INSTALL_LIMIT_S} s") from None
        if done.returncode:
            raise NotInstalledError(_last_line(done.stderr))
    stamp.write_text(wanted, "utf-8")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


OPENAI = "peers/openai_sdk.py"
CLIENTS = {
    client.name: client
    for client in (
        Client(name="bare loop", script="floor.py", packages=("aiohttp", "uvloop", "orjson")),
        Client(
            name="batchrun",
            script="",
            packages=("batchrun-llm", "aiohttp", "uvloop"),
            limits=frozenset({"rpm", "tpm"}),
        ),
        Client(
            name="flexllm",
            script="peers/flexllm_batch.py",
            packages=("flexllm", "aiohttp"),
            limits=frozenset({"rpm"}),
        ),
        Client(
            name="openai, aiohttp",
            script=OPENAI,
            packages=("openai", "aiohttp"),
            flags=("--aiohttp",),
        ),
        Client(name="openai", script=OPENAI, packages=("openai", "httpx2")),
        Client(
            name="curator",
            script="peers/curator_llm.py",
            packages=("bespokelabs-curator", "aiohttp", "litellm"),
            limits=frozenset({"rpm", "tpm"}),
            unlimited_flags=("--unlimited",),
        ),
        Client(name="litellm", script="peers/litellm_sdk.py", packages=("litellm", "openai")),
    )
}
FLOOR = CLIENTS["bare loop"]
