"""docs/endpoints.md runs as it stands, against servers of its kind."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "endpoints.md").read_text("utf-8")


def _blocks(fence):
    return re.findall(rf"^```{re.escape(fence)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_page_runs(cli, scripted, simulator, answer, jsonl):
    """Its configuration and its commands, with three servers in the place of the page's."""
    racks = [simulator(), simulator()]

    def vendors(body, headers, _nth):
        known = headers["Authorization"] == "Bearer sk-vendor"
        asked = body is None or body.get("model") == "org/m-small-instruct"
        return (200 if known and asked else 400), {}, answer()

    vendor = scripted(vendors)
    (config,) = _blocks("toml file=several.toml")
    for name, there in (
        ("http://rack-1.example:8000/v1", racks[0].base_url),
        ("http://rack-2.example:8000/v1", racks[1].base_url),
        ("https://llm.example/v1", vendor.base_url),
    ):
        assert name in config
        config = config.replace(name, there)
    (cli.folder / "several.toml").write_text(config)
    jsonl(300).rename(cli.folder / "rows.jsonl")
    (script,) = _blocks("sh run")
    done = cli.shell(script, {"VENDOR_KEY": "sk-vendor"})
    assert done.returncode == 0, done.stderr + done.stdout
    told = json.loads((cli.folder / "answers" / "summary.json").read_text("utf-8"))
    assert told["rows"]["ok"] == 300
    assert set(told["endpoints"]) == {"rack-1", "rack-2", "vendor"}
