"""The report in Chromium: wide and narrow, light and dark, with and without scripts."""

import itertools
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\" onx='\x00\x1b[31m\u202e\u05d0"
)


@pytest.fixture
def report(cli, scripted, answer, jsonl, chat):
    """The address of the report of a run with hostile rows, and two sessions."""

    def reply(body, _headers, _nth):
        number = int(body["messages"][0]["content"].removeprefix("question "))
        if number % 9 == 3:
            return 400, {}, {"error": {"message": f"no {HOSTILE}"}}
        return 200, {}, answer(f"answer {number} {HOSTILE} {'long ' * 900}")

    endpoint = scripted(reply)
    rows = [chat(n, custom_id=f"{n}{HOSTILE * 3}", topic="w" * 300) for n in range(40)]
    command = (jsonl(rows), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")
    for limit in (20, 40):
        assert cli.run(*command, "--limit", limit).code == 1
    assert cli("report", "run").code == 0
    return (cli.folder / "run" / "report.html").as_uri()


@pytest.mark.slow
def test_the_report_opens_everywhere(visit, report):
    """No script of a row runs, nothing is asked of the network, nothing is wider than the window;
    charts are drawn by the script where scripts run, and are there without them.
    """
    for width, scheme, scripts in itertools.product((390, 1440), ("light", "dark"), (True, False)):
        seen = visit(report, width=width, scheme=scheme, scripts=scripts, offline=not scripts)
        page = seen.page
        assert seen.asked == [report] and seen.said == [] and seen.dialogs == []
        assert "complete, with errors: 35 of 40" in page.inner_text("h1")
        assert page.locator("section").count() >= 6
        assert page.locator("img, iframe, object, [onx], [onerror]").count() == 0
        drawn, svg = page.locator(".uplot").count(), page.locator("figure svg").count()
        charts = page.locator("figure").count()
        assert charts >= 2 and (drawn, svg) == ((charts, 0) if scripts else (0, charts))
        assert "alert(1)" in page.inner_text("#sample")
        if scripts:
            assert seen.overflow() <= 0, (width, scheme)


@pytest.mark.slow
def test_light_and_dark_can_be_read(visit, report):
    """Text and ground differ by the contrast that WCAG asks for (4.5 to 1), in both."""
    luminance = """(colour) => {
      const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => {
        v /= 255; return v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4)});
      return 0.2126 * r + 0.7152 * g + 0.0722 * b}"""
    grounds = []
    for scheme in ("light", "dark"):
        page = visit(report, scheme=scheme).page
        ground = page.evaluate(f"({luminance})(getComputedStyle(document.body).backgroundColor)")
        grounds.append(ground)
        for place in ("body", "h1", ".dim", ".text", "figcaption .s0", "figcaption b", "footer"):
            text = page.evaluate(
                f"({luminance})(getComputedStyle(document.querySelector({place!r})).color)"
            )
            light, dark = max(text, ground), min(text, ground)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, place)
    assert grounds[0] > 0.9 and grounds[1] < 0.1


def test_what_a_policy_forbids_does_not_run(visit, report, tmp_path):
    """The policy of the page stops a script even where escaping would not."""
    text = Path(unquote(urlsplit(report).path)).read_text("utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("</footer>", "</footer><script>alert(3)</script>"), "utf-8")
    seen = visit(broken.as_uri())
    assert seen.dialogs == [] and any("Content Security Policy" in said for said in seen.said)
