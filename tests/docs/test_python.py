"""The examples of docs/python.md run as they stand, one after the other."""

import re
from pathlib import Path

import batchrun

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.compile(r"^```python run\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_run(monkeypatch, tmp_path, capsys):
    """All examples in one program, in an empty folder; they print what they promise."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    blocks = BLOCKS.findall(PAGE)
    assert len(blocks) == PAGE.count("```python") == 10
    exec(compile("\n".join(blocks), "docs/python.md", "exec"), {"__name__": "example"})  # noqa: S102
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("complete 3 ")
    numbered = [line for line in lines if re.match(r"[012] Re: ", line)]
    assert [line.split()[0] for line in numbered] == ["0", "1", "2"]


def test_every_public_error_is_in_the_table():
    """The table of errors names those that the package exports, and no others."""
    told = set(re.findall(r"^\| `(\w+)` \|", PAGE.partition("## Errors")[2], re.MULTILINE))
    public = {name for name in batchrun.__all__ if name.endswith("Error")} - {"BatchrunError"}
    assert told == public
