"""One module knows what aiohttp does not document; all others use documented names alone."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from batchrun.adapters.http import aiohttp_internals

ROOT = Path(__file__).resolve().parents[2]
INSIDE = "batchrun.adapters.http.aiohttp_internals"
SERVERS = ("batchrun.simulator", "batchrun.views.watch.page_server")

DOCUMENTED = set(
    """AddrInfoType BaseConnector ClientConnectorDNSError ClientConnectorError ClientError
    ClientHttpProxyError ClientOSError ClientPayloadError ClientProxyConnectionError
    ClientResponseError ClientSession ClientTimeout ConnectionTimeoutError DummyCookieJar
    ServerDisconnectedError StreamReader TCPConnector ThreadedResolver TraceConfig
    TraceConnectionReuseconnParams
    UnixConnector""".split()
)
"""What of ``aiohttp`` its client reference describes, as far as it is used here. Look there before
you add a name.
"""

UNDOCUMENTED = set(
    """certificate_error client_proto connection_key force_close http_exceptions is_connected
    os_error set_response_params should_close total_bytes""".split()
)
"""Attributes of aiohttp's objects that are not in its documentation, and are used inside."""


def strays(module):
    """Describe every name of aiohttp that a module uses although it is not documented."""
    if not re.search(r"^ *(from|import) .*aiohttp", module.source, re.MULTILINE):
        return
    if module.name == INSIDE:
        return
    for node in ast.walk(module.tree):
        where = f"{module.path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from (f"{where} imports {a.name}" for a in node.names if "aiohttp." in a.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aiohttp."):
            yield f"{where} imports from {node.module}"
        elif isinstance(node, ast.ImportFrom) and node.module == "aiohttp":
            names = {alias.name for alias in node.names}
            allowed = {"web"} if module.name.startswith(SERVERS) else DOCUMENTED
            yield from (f"{where} imports {name}" for name in names - allowed)
        elif isinstance(node, ast.Attribute):
            if getattr(node.value, "id", "") == "aiohttp" and node.attr not in DOCUMENTED:
                yield f"{where} uses aiohttp.{node.attr}"
            elif node.attr in UNDOCUMENTED:
                yield f"{where} uses .{node.attr}"
            elif re.match(r"_[^_]", node.attr):
                of = ast.unparse(node.value)
                if of.split(".")[0] not in ("self", "cls"):
                    yield f"{where} looks into {of}.{node.attr}"


def test_one_module_knows_the_insides(package):
    """A release of aiohttp that changes something which is not documented changes one module."""
    found = [stray for module in package for stray in strays(module)]
    assert not found, (
        f"Only {INSIDE}, which checks these at the start of a run, may use what aiohttp does not "
        "document: put it there, add it to the check, or do without:\n" + "\n".join(found)
    )


@pytest.mark.parametrize(
    "source",
    [
        "from aiohttp.client_proto import ResponseHandler",
        "import aiohttp.connector",
        "from aiohttp import EofStream",
        "import aiohttp\n\ndef f(e):\n    raise aiohttp.http_exceptions.BadHttpMessage",
        "import aiohttp\n\ndef f(connection):\n    connection.protocol.should_close",
        "import aiohttp\n\ndef f(content):\n    content._buffer  # noqa: SLF001",
    ],
)
def test_a_stray_name_is_seen(parse_module, source):
    """The rule turns red however the name is reached, and not inside the fence."""
    assert list(strays(parse_module("batchrun/adapters/http/exchange.py", source)))
    assert not list(strays(parse_module("batchrun/adapters/http/aiohttp_internals.py", source)))


def test_the_known_releases_are_the_tested_ones():
    """What the notice calls known is the range from the lower bound to the pinned release."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["dependencies"]
    lower = next(re.match(r"aiohttp>=([\d.]+)", need)[1] for need in declared if "aiohttp" in need)
    pinned = re.search(
        r"^aiohttp==(\d+\.\d+)", (ROOT / "requirements/run.txt").read_text(), re.MULTILINE
    )
    assert (lower, pinned[1]) == aiohttp_internals.KNOWN
