"""Failures that servers report beside or instead of an ``error``: in a field of their own, often
under status 200, and often there with a value for success too.

MiniMax's ``base_resp``, Tencent's ``Response``, Spark's ``header``, Baidu's ``error_code``,
WeChat's ``errcode``; a flat ``code`` with a ``message`` or ``msg``; ``success: false``; a
``status`` of 400 or more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from batchrun.core.reply.vendor_codes import BAIDU, MINIMAX, SPARK


class Place(NamedTuple):
    """Where a vendor reports a failure: the object that holds it (None: at the top), its code and
    its words.
    """

    vendor: str | None
    holder: str | None
    code: str
    words: str


PLACES: tuple[Place, ...] = (
    Place(MINIMAX, "base_resp", "status_code", "status_msg"),
    Place(SPARK, "header", "code", "message"),
    Place(BAIDU, None, "error_code", "error_msg"),
    Place(None, None, "errcode", "errmsg"),
    Place(None, None, "err_code", "err_msg"),
    Place(None, None, "errorCode", "errorMessage"),
    Place(None, None, "Code", "Message"),
)

VENDOR = "@vendor"
"""The key that holds the vendor of a report."""

_WELL = frozenset(("", "0", "ok", "success", "succeeded", "true", "none", "null", "completed"))
_WELL_NUMBER = re.compile(r"0+|2\d\d|2\d\d00|20000")
_ILL = frozenset(("error", "fail", "failed", "failure"))


def is_success(code: object) -> bool:
    """Whether a code says that all is well, or says nothing: 0, 200, ``success``, null."""
    if code is None or isinstance(code, (bool, dict, list)):
        return True
    word = str(int(code) if isinstance(code, float) and code.is_integer() else code).strip().lower()
    return word in _WELL or _WELL_NUMBER.fullmatch(word) is not None


def reports(value: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The failures in an object's special fields, as errors with ``code`` and ``message``."""
    for vendor, holder, code, words in PLACES:
        place = value if holder is None else value.get(holder)
        if not isinstance(place, dict) or is_success(place.get(code)):
            continue
        found = {"code": place[code], "message": place.get(words)}
        yield found if vendor is None else found | {VENDOR: vendor}


def failed(value: Mapping[str, Any]) -> bool:
    """Whether an object says of itself that what was asked for failed."""
    if value.get("success") is False or value.get("object") == "error" or value.get("errors"):
        return True
    status = value.get("status")
    words = isinstance(value.get("message"), str) or isinstance(value.get("msg"), str)
    if isinstance(status, str) and status.lower() in _ILL and words:
        return True
    number = int(status) if isinstance(status, str) and _NUMBER.fullmatch(status) else status
    if isinstance(number, int) and 400 <= number < 600:
        return True
    if words and not is_success(value.get("code")) and value.get("success") is not True:
        return True
    response = value.get("Response")  # Tencent's
    if isinstance(response, dict) and response.get("Error"):
        return True
    return next(reports(value), None) is not None


_NUMBER = re.compile("[1-9][0-9][0-9]")
