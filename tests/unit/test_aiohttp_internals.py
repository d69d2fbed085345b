"""What is left of aiohttp's errors where a release has other ones, and what the notice says."""

import asyncio

import aiohttp
import pytest

from batchrun.adapters.http import aiohttp_internals as internals
from batchrun.adapters.http.faults import fault


class _Odd(aiohttp.ClientConnectorError):
    """As of a release whose errors have none of the attributes that are not documented."""

    def __init__(self):
        Exception.__init__(self, "somehow")

    def __getattribute__(self, name):
        if name in ("host", "os_error", "certificate_error"):
            raise AttributeError(name)
        return super().__getattribute__(name)

    def __str__(self):
        return "somehow"


class _OddName(_Odd, aiohttp.ClientConnectorDNSError):
    """One of these about a name."""


@pytest.mark.parametrize(("error", "kind"), [(_Odd(), "connect"), (_OddName(), "dns")])
def test_an_error_that_says_less_is_a_fault_all_the_same(error, kind):
    """Attributes that are gone cost words in a message, never the run."""
    found = fault(error, None, where="llm.example:443")
    assert found.kind == kind and "llm.example" in str(found) and "somehow" in str(found)


def test_what_the_system_said_is_found_by_its_cause_too():
    """Python's own chain of causes stands in for an attribute that is gone."""
    error = _Odd()
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert "nothing listens there" in str(fault(error, None))


def test_a_class_of_errors_that_is_gone_is_never_met():
    """Catching what a release does not have is harmless."""
    for module in ("aiohttp", "aiohttp.no_such_module"):
        gone = internals._exception(module, "NoSuchError")
        assert issubclass(gone, Exception) and not isinstance(aiohttp.ClientError(), gone)


def test_the_installed_release_is_known():
    """Nothing differs, and the look leaves nothing behind."""

    async def look():
        async with aiohttp.ClientSession() as session:
            return await internals.differences(session, "https://llm.example/v1/chat/completions")

    assert asyncio.run(look()) is None


def test_the_look_itself_ends(monkeypatch):
    """A release in which the rehearsed response never comes is one that differs."""
    from aiohttp.client_proto import ResponseHandler

    monkeypatch.setattr(internals, "_REHEARSAL_S", 0.02)
    monkeypatch.setattr(ResponseHandler, "data_received", lambda *_: None)

    async def look():
        async with aiohttp.ClientSession() as session:
            return await internals.differences(session, "http://llm.example/v1")

    assert asyncio.run(look()) == "TimeoutError"


def test_the_notice_says_what_why_and_what_to_do():
    """One line: the release, what differs, what it costs, what to install."""
    text = internals.remark_on("ResponseHandler.read is missing")
    assert aiohttp.__version__ in text and "ResponseHandler.read" in text
    assert "%" in text and "pip install" in text and "\n" not in text
