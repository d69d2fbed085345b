"""JUnit XML: a test case for the command, one for each gate and one for each group; none for rows.

A gate that fails is a failure, one that is inconclusive and counts as a failure is an error, one
that was not judged, or only warns, is skipped with its reason. A command without a verdict is an
error: a page of skipped tests would look good.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from batchrun.core.text.legible import legible
from batchrun.views.ci.outcome import Outcome

ROWS_LISTED = 20
GROUPS_MAX = 1_000
_NO_XML = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SUITE = "batchrun"


def junit(outcome: Outcome) -> bytes:
    """An outcome as the bytes of an XML file."""
    suite = ET.Element("testsuite", name=_text(outcome.title))
    _case(suite, "run", "finished", error=outcome.problem, out=outcome.headline)
    for name, gate in outcome.gates_in_order():
        _gate(suite, name, gate, outcome)
    for metric, groups in outcome.groups.items():
        for key, value in list(groups.items())[:GROUPS_MAX]:
            _case(suite, f"group.{metric}", key, out=value)
    cases = suite.findall("testcase")
    counts = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
    }
    root = ET.Element("testsuites", name=_SUITE)
    for element in (suite, root):
        for key, number in counts.items():
            if element is suite or key != "skipped":
                element.set(key, str(number))
        element.set("time", "0")
    root.append(suite)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _gate(suite: ET.Element, name: str, gate: Mapping[str, Any], outcome: Outcome) -> None:
    """The test case of a gate."""
    verdict, why = gate["verdict"], gate["why"]
    more = _rows(outcome) if name.startswith("compare.") else ""
    out = f"{name} {gate['rule']}: {why}"
    if verdict == "fail":
        _case(suite, "gate", name, failure=why, body=f"{out}{more}")
    elif verdict == "inconclusive" and gate["blocks"]:
        _case(suite, "gate", name, error=why, body=f"{out}{more}")
    elif verdict == "pass":
        _case(suite, "gate", name, out=out)
    else:
        _case(suite, "gate", name, skipped=f"{verdict.replace('_', ' ')}: {why}")


def _rows(outcome: Outcome) -> str:
    """The rows that got worse, one a line."""
    listed = [f"{name}: {what}" for name, what in outcome.rows[:ROWS_LISTED]]
    more = len(outcome.rows) - len(listed) + outcome.rows_more
    if more:
        listed.append(f"and {more:,} more")
    return "".join(f"\n{line}" for line in listed)


def _case(
    suite: ET.Element,
    classname: str,
    name: str,
    *,
    failure: str | None = None,
    error: str | None = None,
    skipped: str | None = None,
    body: str | None = None,
    out: str | None = None,
) -> None:
    case = ET.SubElement(
        suite, "testcase", classname=f"{_SUITE}.{_text(classname)}", name=_text(name), time="0"
    )
    for kind, message in (("failure", failure), ("error", error), ("skipped", skipped)):
        if message is not None:
            element = ET.SubElement(case, kind, message=_text(message))
            if kind != "skipped":
                element.set("type", "gate" if classname == "gate" else "run")
                element.text = _text(body or message)
    if out is not None:
        ET.SubElement(case, "system-out").text = _text(out)


def _text(text: str) -> str:
    """Text with what XML cannot hold replaced."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", legible(text))
