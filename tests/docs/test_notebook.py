"""docs/notebook.ipynb runs in a real kernel, and shows what it is kept with."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
BYTES_MAX = 60_000


def _outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def _texts(notebook):
    """What the cells put out, without what differs from run to run."""
    found = []
    for output in _outputs(notebook):
        texts = output.get("data") or {output.get("name"): output.get("text")}
        for kind, text in sorted(texts.items()):
            plain = re.sub(r"/\S*?/night", "FOLDER/night", text)
            plain = re.sub(r"\b\d+s\b|\d+(\.\d+)?/s", "T", plain)
            found.append((kind, plain))
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The notebook as a kernel ran it now."""
    pytest.importorskip("ipykernel")
    script = runpy.run_path(str(ROOT / "docs" / "make_notebook.py"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
            patch.delenv(name, raising=False)
        return script["executed"](NOTEBOOK, tmp_path_factory.mktemp("notebook"))


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(ran):
    """``run`` works where a loop runs, ``arun`` in that loop; one bar ends complete, the summary is
    a table, and no cell writes to stderr.
    """
    outputs = _outputs(ran)
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    pages = [o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    bars = [page for page in pages if "<progress" in page]
    assert len(bars) == 1 and "complete: 40 of 40 rows ok" in bars[0]
    assert 'max="40" value="40"' in bars[0]
    (table,) = [page for page in pages if "<th" in page and "Status" in page]
    assert "40 of 40 rows ok, 0 failed" in table and "gates: 1 of 1 passed" in table
    texts = [o.data["text/plain"] for o in outputs if "text/plain" in o.get("data", {})]
    assert "True" in texts
    said = [o.text for o in outputs if o.get("name") == "stdout"]
    assert len(said) == 1 and 'prompt="{{ text }}"' in said[0]


@pytest.mark.slow
def test_the_notebook_is_kept_as_it_runs(ran):
    """Its outputs are those of this version: `make notebook` was run. It is small."""
    import nbformat

    assert NOTEBOOK.stat().st_size <= BYTES_MAX
    kept = nbformat.read(NOTEBOOK, as_version=4)
    assert _texts(kept) == _texts(ran)
    assert not [output for output in _outputs(kept) if output.output_type == "error"]
