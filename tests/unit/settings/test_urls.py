"""From a base URL to the URL requests go to."""

import pytest

from batchrun.core.settings.urls import address, asked_in_vain, chat_completions_url
from batchrun.errors import UsageError


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("http://h", "/v1/chat/completions"),
        ("http://h/", "/v1/chat/completions"),
        ("http://h//", "/v1/chat/completions"),
        (" http://h ", "/v1/chat/completions"),
        ("http://h/v1", "/v1/chat/completions"),
        ("http://h/v1/", "/v1/chat/completions"),
        ("http://h//v1//", "/v1/chat/completions"),
        ("http://h/v1/chat/completions", "/v1/chat/completions"),
        ("http://h/v1/chat/completions/", "/v1/chat/completions"),
        ("http://h/v1//chat//completions", "/v1/chat/completions"),
        ("http://h/api/openai", "/api/openai/chat/completions"),
        ("http://h/v1?api-version=2", "/v1/chat/completions?api-version=2"),
        ("http://h?a=b//c&d", "/v1/chat/completions?a=b//c&d"),
        ("http://h/a/chat/completions?x=1", "/a/chat/completions?x=1"),
        ("http://h/v1#top", "/v1/chat/completions"),
    ],
)
def test_a_base_url_becomes_the_chat_url(base, path):
    """A bare host, a version, a path, a query and double slashes all end at chat/completions."""
    assert chat_completions_url(base) == f"http://h{path}"


@pytest.mark.parametrize("base", ["https://h:8443/v1", "http://[::1]:80/v1", "http://127.0.0.1:1"])
def test_host_and_port_stay(base):
    """Scheme, host and port are those given, IPv6 in its brackets."""
    assert chat_completions_url(base).startswith(base.removesuffix("/v1"))


@pytest.mark.parametrize(
    "base", ["", "h", "h/v1", "localhost:8000/v1", "ftp://h", "http://", "http:///v1", "//h/v1"]
)
def test_what_is_no_url_is_refused(base):
    """The message repeats what was given and shows the form that is expected."""
    with pytest.raises(UsageError, match="http://HOST"):
        chat_completions_url(base)


@pytest.mark.parametrize("base", ["http://h:port/v1", "http://h:99999/v1", "http://[::1/v1"])
def test_a_broken_port_or_address_is_refused(base):
    """What Python's parser rejects is a usage error too, not a crash."""
    with pytest.raises(UsageError):
        chat_completions_url(base)


@pytest.mark.parametrize("base", ["http://user:hunter2@h/v1", "https://hunter2@h"])
def test_credentials_in_the_url_are_refused_and_not_repeated(base):
    """A URL would be stored and shown: a password does not belong there."""
    with pytest.raises(UsageError) as caught:
        chat_completions_url(base)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "url", "socket"),
    [
        ("http://h/v1", "http://h/v1/chat/completions", None),
        ("http+unix://%2Frun%2Fllm.sock", "http://localhost/v1/chat/completions", "/run/llm.sock"),
        (
            " http+unix://%2FRun%2Fa%20b.sock/v1/?x=1 ",
            "http://localhost/v1/chat/completions?x=1",
            "/Run/a b.sock",
        ),
        ("http+unix://llm.sock/api", "http://localhost/api/chat/completions", "llm.sock"),
    ],
)
def test_a_socket_stands_in_place_of_the_host(base, url, socket):
    """Its path is percent-encoded, upper and lower case are kept."""
    assert address(base) == (url, socket)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("http+unix:///run/llm.sock/v1", "http+unix://%2Frun%2Fllm.sock/v1"),
        ("unix:///run/llm.sock", "http+unix://%2Frun%2Fllm.sock/v1"),
        ("unix:/run/llm.sock", "http://HOST"),
        ("http+unix://", "percent-encoded"),
        (f"http+unix://{'%2Fx' * 60}/v1", "107 bytes"),
        ("http+unix://%2Fa%00b/v1", "107 bytes"),
        ("https+unix://%2Fa/v1", "http://HOST"),
    ],
)
def test_a_socket_that_is_written_otherwise_is_refused(base, words):
    """With the right spelling, as far as it can be guessed."""
    with pytest.raises(UsageError) as caught:
        address(base)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("http://h:1234/chat/completions", "http://h:1234/v1"),
        ("http://h/api/chat/completions?k=secret", "http://h/api/v1?k=..."),
        ("http://h/v1/models/chat/completions", "http://h/v1"),
        ("http://h/v1/chat/completions", None),
        ("http://h/v1beta/openai/chat/completions", None),
        ("http://h/api/paas/v4/chat/completions", None),
    ],
)
def test_a_path_that_serves_nothing_is_told_with_the_likely_one(url, meant):
    """The version that is missing, or what a path of another call begins with; no secrets."""
    told = asked_in_vain(url)
    assert told.startswith(f"asked {url.partition('?')[0]}") and "secret" not in told
    assert (f"the base URL may have to be {meant}" if meant else "check the host and") in told
