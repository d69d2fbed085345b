"""Known credentials are found in every usual spelling, and nothing else is touched."""

import base64
import html
import json
from urllib.parse import quote, quote_plus

from hypothesis import given
from hypothesis import strategies as st

from batchrun.core.text.redact import REDACTED, Redactor, public_url, secrets_of

SECRET = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40)


def _whole(text):
    return quote(text, safe="")


def _json(text):
    return json.dumps(text)[1:-1]


def _php(text):
    return _json(text).replace("/", r"\/")


@given(SECRET, st.text(), st.text())
def test_every_spelling(secret, before, after):
    """As JSON, in URLs and in HTML, wherever it stands."""
    redactor = Redactor([secret])
    for write in (str, quote, quote_plus, html.escape, _whole, _json, _php):
        text = f"{before}\n{write(secret)}\n{after}"
        left = redactor.text(text)
        assert REDACTED in left
        assert write(secret) not in left.replace(REDACTED, "\n")
        body = redactor.body(text.encode("utf-8", "surrogatepass"))
        assert write(secret).encode() not in body.replace(REDACTED.encode(), b"\n")


def test_a_renewed_key_joins_the_old_one():
    """Both are taken out from then on."""
    redactor = Redactor(["the-old-key"])
    redactor.add(["the-new-key"])
    assert redactor.text("the-old-key the-new-key") == f"{REDACTED} {REDACTED}"
    assert "the-" not in repr(redactor)


def test_what_is_a_secret_of_an_endpoint():
    """Keys, headers named like credentials with their parts, a basic password, query values."""
    basic = base64.b64encode(b"user:pass:word").decode()
    found = secrets_of(
        "the-key",
        {"Authorization": f"Basic {basic}", "X-Team": "research-team", "api-key": "azure-key"},
        "https://h/v1?code=a%2Bb&api-version=2024-10-21",
    )
    assert {"the-key", basic, "user:pass:word", "pass:word", "azure-key", "a%2Bb", "a+b"} <= set(
        found
    )
    assert not {"research-team", "2024-10-21"} & set(found)


def test_a_short_value_is_no_secret():
    """Answers are not torn apart for the sake of `test`."""
    assert Redactor(["test", ""]).text("a test") == "a test"


def test_a_url_is_shown_without_values():
    """Neither the query nor a user."""
    assert public_url("https://u:p@h/v1?key=abc&x=") == "https://h/v1?key=...&x=..."
    assert public_url("http+unix://%2Frun%2Fx.sock/v1") == "http+unix://%2Frun%2Fx.sock/v1"
