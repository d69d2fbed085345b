"""The commands of docs/network.md run as they stand, against servers of their kind."""

import json
import re
import ssl
from pathlib import Path
from urllib.parse import quote

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "network.md").read_text("utf-8")


@pytest.mark.slow
def test_the_page_runs(cli, scripted, answer, unix_simulator, authority, jsonl):
    """Key by file and by command, a private authority, a client certificate, a Unix socket."""
    demanding = authority.server_tls()
    demanding.verify_mode = ssl.CERT_OPTIONAL
    authority.ca.configure_trust(demanding)
    key = "sk-of-the-page"

    def reply(_body, headers, _nth):
        return (200 if headers["Authorization"] == f"Bearer {key}" else 401), {}, answer()

    endpoint = scripted(reply, demanding)
    jsonl(3).rename(cli.folder / "rows.jsonl")
    (cli.folder / "key.txt").write_text(f"{key}\n")
    authority.file.rename(cli.folder / "our-ca.pem")
    mine = authority.ca.issue_cert("me@example.org")
    mine.cert_chain_pems[0].write_to_path(cli.folder / "client.pem")
    mine.private_key_pem.write_to_path(cli.folder / "client.key")
    unix_simulator(cli.folder / "llm.sock")
    blocks = re.findall(r"^```sh run\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    script = (
        "".join(blocks)
        .replace("https://llm.example/v1", endpoint.base_url)
        .replace(quote("/run/llm.sock", safe=""), quote(str(cli.folder / "llm.sock"), safe=""))
    )
    done = cli.shell(script)
    assert done.returncode == 0, done.stderr
    for folder in ("by-file", "by-command", "private", "mutual", "local"):
        summary = json.loads((cli.folder / folder / "summary.json").read_text("utf-8"))
        assert summary["rows"]["ok"] == 3, folder
