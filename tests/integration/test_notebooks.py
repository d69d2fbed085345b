"""A run in the kernel of a notebook: its bar while it works, and the stop button."""

import json
import re
import time

import pytest

from batchrun.simulator.latency import FixedLatency

ROWS = 60
CELL = """
import batchrun
rows = [{{"messages": [{{"role": "user", "content": f"question {{n}}"}}]}} for n in range({rows})]
options = {{"output": "run", "model": "m", "base_url": "{url}", "concurrency": 4}}
{await_}batchrun.{call}(rows, progress=True, **options)
"""


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A client of a real kernel that works in a folder of its own."""
    pytest.importorskip("ipykernel")
    from jupyter_client.manager import start_new_kernel

    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    manager, client = start_new_kernel(cwd=str(tmp_path))
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def _messages(client, asked, patience_s=180):
    """What a cell puts out, until it has ended."""
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s:
        message = client.get_iopub_msg(timeout=patience_s)
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and content["execution_state"] == "idle":
            return
        yield kind, content
    raise TimeoutError


def _done(content):
    """How many rows a bar shows as done."""
    found = re.search(r'value="(\d+)"', content["data"]["text/html"])
    return int(found[1]) if found else 0


@pytest.mark.slow
@pytest.mark.parametrize("call", ["run", "arun"])
def test_a_bar_moves_and_the_stop_button_keeps_everything(kernel, simulator, tmp_path, call):
    """One output is updated while rows are answered; an interrupt ends the cell in order, and the
    same cell goes on with what is pending.
    """
    manager, client = kernel
    endpoint = simulator(latency=FixedLatency(0.4))
    await_ = "await " if call == "arun" else ""
    cell = CELL.format(rows=ROWS, await_=await_, call=call, url=endpoint.base_url)
    shown, updated, error, stopped = [], [], None, False
    for kind, content in _messages(client, client.execute(cell)):
        if kind == "display_data":
            shown.append(content)
        elif kind == "update_display_data":
            updated.append(content)
            if not stopped and _done(content) >= 8:
                manager.interrupt_kernel()
                stopped = True
        elif kind == "error":
            error = content
    assert len(shown) == 1 and len(updated) >= 2
    name = shown[0]["transient"]["display_id"]
    assert {each["transient"]["display_id"] for each in updated} == {name}
    assert error["ename"] in ("KeyboardInterrupt", "CancelledError"), error
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert 8 <= summary["rows"]["ok"] < ROWS and summary["rows"]["error"] == 0
    messages = list(_messages(client, client.execute(cell)))
    assert not [content for kind, content in messages if kind in ("error", "stream")]
    (result,) = [content for kind, content in messages if kind == "execute_result"]
    assert f"complete: {ROWS} of {ROWS} rows ok" in result["data"]["text/plain"]
    assert "<table>" in result["data"]["text/html"]
    assert endpoint.stats()["requests_total"] == ROWS
