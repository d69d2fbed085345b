"""Replies that are too large for their column are kept whole, in files of ``responses/``."""

import asyncio
import base64
import hashlib
import json

import pandas as pd
import pyarrow.parquet as pq
import pytest

import batchrun

LARGE = {1, 4}


@pytest.fixture
def run(cli, scripted, answer, jsonl, chat):
    """A run of six rows, two of which have large replies; calling it runs the command."""

    def reply(body, _, nth):
        number = int(body["messages"][0]["content"].split()[1])
        more = {"prompt_logprobs": [f"é{nth}"] * 200_000} if number in LARGE else {}
        text = json.dumps(answer(f"answer to {number}", **more), ensure_ascii=False)
        return 200, {}, text.encode()

    endpoint = scripted(reply)
    source = jsonl([chat(n) for n in range(6)])

    def go(*more):
        return cli(
            *("run", source, "-o", "run", "--model", "m", "--shard-rows", "3", "--no-progress"),
            *("--base-url", endpoint.base_url, *more),
        )

    go.folder = cli.folder / "run"
    go.source, go.base_url, go.cli = source, endpoint.base_url, cli
    return go


def _kept(folder):
    table = pq.read_table(folder / "results")
    return dict(zip(table["row"].to_pylist(), table["response"].to_pylist(), strict=True))


def test_a_large_reply_has_a_file_of_its_own(run):
    """The column names it, the file has the content that its name says; other replies stay."""
    assert run().code == 0
    kept = _kept(run.folder)
    for row, response in kept.items():
        if row not in LARGE:
            assert json.loads(response)["choices"]
            continue
        name = json.loads(response)["file"]
        content = (run.folder / name).read_bytes()
        assert name == f"responses/{hashlib.sha256(content).hexdigest()}"
        assert json.loads(content)["choices"][0]["message"]["content"] == f"answer to {row}"
        assert len(json.loads(content)["prompt_logprobs"]) == 200_000
        assert (run.folder / name).stat().st_mode & 0o777 == 0o600
    assert len(list((run.folder / "responses").iterdir())) == len(LARGE)
    run.cli.verified("run")


def test_no_file_where_none_is_needed(run):
    """Without a large reply there is not a folder; nor with --raw none, which keeps no reply."""
    assert run("--raw", "none").code == 0
    assert not (run.folder / "responses").exists()
    assert set(_kept(run.folder).values()) == {None}


def test_export_returns_them_whole(run):
    """As OpenAI Batch lines, Parquet and CSV."""
    assert run().code == 0
    for name in ("out.jsonl", "out.parquet", "out.csv"):
        assert run.cli("export", "run", "-o", name).code == 0
    folder = run.cli.folder
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text("utf-8").splitlines()]
    texts = pq.read_table(folder / "out.parquet")["response"].to_pylist()
    cells = pd.read_csv(folder / "out.csv")["response"].tolist()
    for row in range(6):
        for body in (
            lines[row]["response"]["body"],
            json.loads(texts[row]),
            json.loads(cells[row]),
        ):
            assert body["choices"][0]["message"]["content"] == f"answer to {row}"
            assert ("prompt_logprobs" in body) == (row in LARGE)


@pytest.mark.parametrize("damage", ["removed", "cut off", "changed"])
def test_verify_notices_what_became_of_a_file(run, damage):
    """It names row and file; export does not write half of it."""
    assert run().code == 0
    path = run.folder / json.loads(_kept(run.folder)[4])["file"]
    if damage == "removed":
        path.unlink()
    elif damage == "cut off":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.write_bytes(path.read_bytes().replace(b"answer", b"Answer"))
    done = run.cli("verify", "run")
    assert done.code == 1 and f"row 4 names responses/{path.name}" in done.out + done.err
    if damage == "removed":
        done = run.cli("export", "run", "-o", "out.jsonl")
        assert done.code == 2 and path.name in done.err
        assert not (run.cli.folder / "out.jsonl").exists()


def test_a_retry_keeps_old_files(run):
    """What a later answer replaced stays, named by no row; verify says so and is content."""
    assert run().code == 0
    (run.folder / "responses" / ("0" * 64)).write_bytes(b"something")
    report = run.cli.verified("run")
    assert any("named by no row" in note for note in report["notes"])
    (run.folder / "responses" / "mine.txt").write_bytes(b"something")
    assert run.cli("verify", "run").code == 1


def test_python_gets_the_reply_itself(run):
    """The outcomes of a program carry it whole; the files are the same."""

    async def session():
        rows = [json.loads(line) for line in run.source.read_text("utf-8").splitlines()]
        options = {"base_url": run.base_url, "model": "m", "output": str(run.folder)}
        return {o.row: o.response async for o in batchrun.stream(rows, **options)}

    found = asyncio.run(session())
    assert {row for row, reply in found.items() if len(reply) > 2**20} == LARGE
    assert {row for row, reply in _kept(run.folder).items() if "responses/" in reply} == LARGE
    run.cli.verified("run")


def test_media_have_a_column(cli, scripted, jsonl, chat, published):
    """Small ones are in it, large ones in files; the answer is not empty, and export has it all."""
    small, large = b"small image", b"x" * (2**20 + 1)

    def reply(body, *_):
        number = int(body["messages"][0]["content"].split()[1])
        data = base64.b64encode(large if number == 1 else small).decode()
        message = {"content": None, "images": [{"url": f"data:image/png;base64,{data}"}]}
        return 200, {}, {"choices": [{"message": message, "finish_reason": "stop"}]}

    source, endpoint = jsonl([chat(n) for n in range(3)]), scripted(reply)
    done = cli(
        *("run", source, "-o", "run", "--model", "m", "--no-progress", "--on-empty", "fail"),
        *("--base-url", endpoint.base_url, "--shard-rows", "2", "--raw", "none"),
    )
    assert done.code == 0, done.err
    media = [found for [found] in published(cli.folder / "run")["media"].to_pylist()]
    assert [found["kind"] for found in media] == ["image"] * 3
    assert [found["bytes"] for found in media] == [small, None, small]
    name = media[1]["file"]
    assert name == f"responses/{hashlib.sha256(large).hexdigest()}"
    assert (cli.folder / "run" / name).read_bytes() == large
    cli.verified("run")
    assert cli("export", "run", "-o", "out.parquet").code == 0
    out = pq.read_table(cli.folder / "out.parquet")["media"].to_pylist()
    assert [found["bytes"] for [found] in out] == [small, large, small]
    (cli.folder / "run" / name).unlink()
    assert cli("verify", "run").code == 1
