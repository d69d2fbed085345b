"""Which proxy the environment names for a URL."""

import pytest

from batchrun.core.settings.proxies import is_excepted, proxy_for, proxy_name, secrets_of_proxy
from batchrun.errors import UsageError

P = "http://p:3128"


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("https://a.example/v1", {}, None),
        ("https://a.example/v1", {"HTTPS_PROXY": P}, P),
        ("https://a.example/v1", {"https_proxy": "p:3128"}, P),
        ("https://a.example/v1", {"https_proxy": P, "HTTPS_PROXY": "http://q:1"}, P),
        ("https://a.example/v1", {"https_proxy": "", "HTTPS_PROXY": P}, P),
        ("https://a.example/v1", {"HTTPS_PROXY": f" {P} "}, P),
        ("http://a.example/v1", {"HTTPS_PROXY": P}, None),
        ("http://a.example/v1", {"ALL_PROXY": P}, P),
        ("https://a.example/v1", {"HTTPS_PROXY": P, "NO_PROXY": ".example"}, None),
        ("https://a.example/v1", {"HTTPS_PROXY": P, "no_proxy": "a.example:443"}, None),
        ("https://a.example/v1", {"HTTPS_PROXY": P, "NO_PROXY": "b.example"}, P),
        ("http://[::1]:8000/v1", {"HTTP_PROXY": P, "NO_PROXY": "::1"}, None),
        ("https://a.example/v1", {"HTTPS_PROXY": ""}, None),
        ("https://a.example/v1", {"HTTPS_PROXY": "https://u:p@p"}, "https://u:p@p"),
    ],
)
def test_the_proxy_of_a_url(url, environment, proxy):
    """The environment names the proxy, in lower or upper case, unless the host is excepted."""
    assert proxy_for(url, environment) == proxy


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://u:hunter2@p:1080",
        "http://u:hunter2@",
        "http://u:hunter2@p:port",
        "http://u:hunter2@p:99999",
        "http://u:hunter2é@p:1",
        "ftp://u:hunter2@p",
        "http://u:hunter2@[::1",
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused(proxy):
    """The error names the variable and does not repeat the password."""
    with pytest.raises(UsageError, match="HTTPS_PROXY") as caught:
        proxy_for("https://h/v1", {"HTTPS_PROXY": proxy})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "no_proxy", "excepted"),
    [
        ("a.example", "*", True),
        ("a.example", "b.example,a.example", True),
        ("a.example", "b.example a.example", True),
        ("A.Example", "a.EXAMPLE", True),
        ("a.example.", "a.example", True),
        ("x.a.example", "a.example", True),
        ("x.a.example", ".a.example", True),
        ("x.a.example", "*.a.example", True),
        ("xa.example", "a.example", False),
        ("a.example", "a.example.org", False),
        ("a.example", "a.example:8000", True),
        ("a.example", "a.example:8001", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.0/8", True),
        ("10.1.2.3", "10.0.0.0/16", False),
        ("10.1.2.3", "2.3", False),
        ("127.0.0.1", "127.0.0.1:8000", True),
        ("::1", "::1", True),
        ("::1", "[::1]", True),
        ("::1", "[::1]:8000", True),
        ("::1", "[::1]:8001", False),
        ("fd00::5", "fd00::/8", True),
        ("fd00::5", "127.0.0.0/8", False),
        ("a.example", "", False),
        ("a.example", " , ,", False),
        ("a.example", "*.", False),
    ],
)
def test_the_hosts_that_are_excepted(host, no_proxy, excepted):
    """Names with their subdomains, addresses, ranges, ports, and all."""
    assert is_excepted(host, 8000, no_proxy) is excepted


def test_the_credentials_of_a_proxy():
    """They are known as written and as sent, and its name has none of them."""
    proxy = "http://user:p%40ssw%C3%B6rd@proxy:3128"
    assert set(secrets_of_proxy(proxy)) == {
        "user:p%40ssw%C3%B6rd",
        "user:p@sswörd",
        "p%40ssw%C3%B6rd",
        "p@sswörd",
    }
    assert proxy_name(proxy) == "proxy:3128"
    assert secrets_of_proxy("http://proxy:3128") == []
