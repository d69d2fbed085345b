"""Which redirects are followed, and what is said of the others."""

import pytest

from batchrun.core.reply.redirects import refused, target

HERE = "https://h.example/v1/chat/completions?key=abc"


@pytest.mark.parametrize(
    ("status", "location", "there"),
    [
        (307, "/v2", "https://h.example/v2"),
        (308, "?x=1", "https://h.example/v1/chat/completions?x=1"),
        (307, "https://h.example:443/v2#top", "https://h.example:443/v2"),
        (307, "https://H.EXAMPLE/v2", "https://H.EXAMPLE/v2"),
        (307, " /v2 ", "https://h.example/v2"),
        (301, "/v2", None),
        (302, "/v2", None),
        (303, "/v2", None),
        (300, "/v2", None),
        (307, "http://h.example/v2", None),
        (307, "https://h.example:8443/v2", None),
        (307, "https://evil.example/v2", None),
        (307, "https://h.example.evil.example/v2", None),
        (307, "https://h.example@evil.example/v2", None),
        (307, "https://u@h.example/v2", None),
        (307, "//evil.example/v2", None),
        (307, "\\\\evil.example/v2", "https://h.example/v1/chat/\\\\evil.example/v2"),
        (307, "https://[::1", None),
        (307, "javascript:alert(1)", None),
        (307, "", None),
        (307, None, None),
    ],
)
def test_where_a_redirect_leads(status, location, there):
    """Only 307 and 308, and only to the same scheme, host and port."""
    assert target(HERE, status, location) == there


def test_the_sentence_shows_no_credentials():
    """Of a query only the names, and no user."""
    told = refused(302, "https://user:hunter2@login.example/auth?token=hunter2&next=%2Fv1")
    assert "https://login.example/auth?token=...&next=..." in told
    assert "hunter2" not in told
