"""An attacker's data: rows, names of files and columns, replies; and neighbours on the machine."""

import csv
import errno
import json
import os
import socket
import ssl
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from click.testing import CliRunner

from batchrun.adapters.http import tls
from batchrun.adapters.journal.flight_log import FlightLog
from batchrun.adapters.journal.shard_log import ShardLog
from batchrun.adapters.sources.files.local_file import read_file
from batchrun.adapters.storage import files
from batchrun.cli.main import main
from batchrun.core.settings import resolve
from batchrun.core.settings.table import TABLE
from batchrun.errors import RowError
from batchrun.rundir import claim
from batchrun.simulator.plan import SimulatorOptions

LOG = "shard-00000000.1.log"
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil"
PRIVATE = {"file": 0o600, "folder": 0o700}


def _modes(folder):
    """Every file and folder that somebody else could look into, with its mode."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        try:
            mode = path.lstat().st_mode & 0o7777
        except FileNotFoundError:  # replaced or published just now
            continue
        if mode != PRIVATE["folder" if path.is_dir() else "file"]:
            found[str(path.relative_to(folder.parent))] = oct(mode)
    return found


@pytest.fixture
def umask_0():
    """Whatever is made without a mode in mind is open to everybody."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def told_by(here):
    """Runs any command inside this process, where ``here`` has put it."""
    assert here

    def run(*arguments):
        done = CliRunner().invoke(main, list(map(str, arguments)))
        return SimpleNamespace(code=done.exit_code, out=done.stdout, err=done.stderr)

    return run


@pytest.mark.usefixtures("umask_0")
def test_nobody_else_reads_what_a_run_writes(cli, here, scripted, answer, jsonl):
    """Files are 0600 and folders 0700 under any umask: while it runs, when it has ended, what a
    repair sets aside, and what a restart does.
    """
    seen = []

    def replies(_body, _headers, nth):
        if nth % 7 == 3:
            seen.append(_modes(cli.folder / "run"))
        return (400, {}, {"error": {"message": "no"}}) if nth % 9 == 5 else (200, {}, answer())

    flags = ("--base-url", scripted(replies).base_url, "--max-failures", "100%", "--quiet")
    words = (jsonl(40), "-o", "run", "--shard-rows", 8, "--concurrency", 4, *flags)
    assert here(*words).code == 1
    assert len(seen) == 6 and not any(seen), seen
    part = cli.folder / "run/results/part-00000002.parquet"
    part.write_bytes(b"PAR1" + part.read_bytes()[4:-9] + b"x" * 9)
    os.truncate(cli.folder / "run/checkpoint/journal.db", 5000)
    assert here(*words, "--repair").code == 1
    damaged = list((cli.folder / "run/checkpoint/damaged").iterdir())
    assert {path.name.split(".")[0] for path in damaged} >= {"journal", "results-part-00000002"}
    assert here(*words, "--restart").code == 1
    [old] = cli.folder.glob("run.old-*")
    for folder in (cli.folder / "run", old):
        assert not _modes(folder)


def test_a_folder_that_was_there_keeps_its_mode(cli, here, simulator, jsonl):
    """What somebody shares on purpose stays shared; the files in it are private all the same."""
    for name in ("run", "run/results"):
        (cli.folder / name).mkdir()
        (cli.folder / name).chmod(0o755)
    assert here(jsonl(3), "-o", "run", "--base-url", simulator().base_url).code == 0
    assert _modes(cli.folder / "run") == {"run": "0o755", "run/results": "0o755"}


@pytest.mark.usefixtures("umask_0")
def test_a_copy_to_another_disk_is_private_from_the_start(tmp_path, monkeypatch):
    """A checkpoint that a restart copies over disks is in a private folder before its files are."""
    source, target = tmp_path / "from", tmp_path / "to"
    (source / "damaged").mkdir(parents=True)
    (source / "log").write_text("prompts")
    seen = []

    def rename(_path, _to):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def copied(*_args, **_more):
        seen.append(target.stat().st_mode & 0o777)

    monkeypatch.setattr(claim.disk, "rename", rename)
    monkeypatch.setattr(claim.shutil, "copytree", copied)
    claim._move(source, target)
    assert seen == [0o700] and not source.exists()


def test_a_socket_that_a_kill_left_is_not_copied_to_another_disk(tmp_path, monkeypatch):
    """A restart goes on over disks where the run before was killed: sockets cannot be copied."""
    source, target = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    (source / "log").write_text("prompts")
    with socket.socket(socket.AF_UNIX) as left:
        monkeypatch.chdir(source)
        left.bind("control.sock")

    def rename(_path, _to):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(claim.disk, "rename", rename)
    claim._move(source, target)
    assert [path.name for path in target.iterdir()] == ["log"] and not source.exists()


def test_an_export_takes_the_mode_of_what_it_replaces(cli, here, told_by, simulator, jsonl):
    """--force does not open a file that its owner had closed."""
    assert here(jsonl(2), "-o", "run", "--base-url", simulator().base_url).code == 0
    target = cli.folder / "all.jsonl"
    target.touch(0o600)
    assert told_by("export", "run", "-o", "all.jsonl", "--force").code == 0
    assert target.stat().st_mode & 0o777 == 0o600 and target.stat().st_size > 0


@pytest.mark.parametrize(
    ("name", "code"), [("journal.db", 2), ("lock", 2), ("inflight", 0), (LOG, 2)]
)
def test_a_link_in_place_of_a_file_is_not_followed(cli, here, simulator, jsonl, name, code):
    """A link that waits in the checkpoint is refused or removed; its target keeps its bytes."""
    endpoint = simulator()
    victim = cli.folder / "victim"
    victim.write_bytes(b"precious")
    control = cli.folder / "run/checkpoint"
    control.mkdir(parents=True)
    (control / name).symlink_to(victim)
    done = here(jsonl(2), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")
    assert done.code in (code, 5 if code else 0), done.err
    if code and name != LOG:  # logs without their state file are refused before they are opened
        assert f"{name} is a symbolic link" in done.err
    assert victim.read_bytes() == b"precious"
    assert endpoint.stats()["requests_total"] == (0 if code else 2)


@pytest.mark.parametrize("make", [lambda p: ShardLog(p, 0, 1), lambda p: FlightLog(p, 4)])
def test_logs_are_never_opened_through_a_link(tmp_path, make):
    """Not even where the link leads to a file that is not there."""
    for victim in ("victim", "none"):
        (tmp_path / "victim").write_bytes(b"precious")
        link = tmp_path / f"link-{victim}"
        link.symlink_to(tmp_path / victim)
        with pytest.raises(OSError, match="is a symbolic link"):
            make(link)
    assert (tmp_path / "victim").read_bytes() == b"precious" and not (tmp_path / "none").exists()


def test_links_in_place_of_drafts_are_replaced(cli, here, simulator, jsonl):
    """What is written aside goes into a new file; a link that waits there loses its name."""
    victim = cli.folder / "victim"
    victim.write_bytes(b"precious")
    drafts = [
        ".summary.json.tmp",
        ".usage.parquet.tmp",
        "results/.part-00000000.parquet.tmp",
        "attempts/.part-00000000.parquet.tmp",
        "checkpoint/.status.json.tmp",
    ]
    for name in drafts:
        path = cli.folder / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(victim)
    done = here(jsonl(2), "-o", "run", "--base-url", simulator().base_url, "--no-progress")
    assert done.code == 0, done.err
    assert victim.read_bytes() == b"precious"
    cli.verified("run")
    draft = cli.folder / ".a.json.tmp"
    draft.symlink_to(victim)
    files.write_json(cli.folder / "a.json", {})
    assert victim.read_bytes() == b"precious" and not draft.is_symlink()


@pytest.mark.parametrize("name", ["run", "run/results", "run/checkpoint"])
def test_a_folder_that_somebody_else_linked_is_refused(
    cli, here, simulator, jsonl, monkeypatch, name
):
    """A link of one's own is followed, one of another user is not."""
    elsewhere, link = cli.folder / "elsewhere", cli.folder / name
    elsewhere.mkdir()
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    endpoint = simulator()
    words = (jsonl(2), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")
    monkeypatch.setattr(files.os, "geteuid", lambda: os.getuid() + 1)
    if os.getuid() == 0:
        os.lchown(link, 1234, 1234)
    done = here(*words)
    assert done.code in (2, 5) and "symbolic link of another user" in done.err, done.err
    assert endpoint.stats()["requests_total"] == 0 and not list(elsewhere.iterdir())
    monkeypatch.undo()
    os.lchown(link, os.getuid(), os.getgid())
    monkeypatch.chdir(cli.folder)
    assert here(*words).code == 0


def test_a_folder_that_everybody_may_write_into_is_told_of(cli, here, simulator, jsonl):
    """The run goes on, and says what others could do and what to type."""
    (cli.folder / "run").mkdir()
    (cli.folder / "run").chmod(0o777)
    done = here(jsonl(2), "-o", "run", "--base-url", simulator().base_url)
    assert done.code == 0
    assert "warning: every user of this machine may write into run" in done.err
    assert "chmod o-w run" in done.err
    assert "checkpoint" not in done.err


def test_no_path_comes_from_data(cli, here, scripted, answer, jsonl):
    """Names in rows and replies that look like paths make no file and open none; what a column
    says is read only where --image or --file names it.
    """
    up = "../../../outside"
    endpoint = scripted(lambda *_: (200, {"x-request-id": up}, answer(model=up, id=up)))
    row = {"image": "/etc/passwd", "file": "/etc/passwd", "url": "file:///etc/passwd", up: up}
    flags = ("--base-url", endpoint.base_url, "--prompt", "{{ url }} {{ image }}", "--quiet")
    source = jsonl([{"custom_id": up, **row}])
    before = set(cli.folder.parent.rglob("*"))
    assert here(source, "-o", "run", *flags).code == 0
    assert here(source, "-o", "run", *flags, "--retry-failed").code == 0
    made = {path.relative_to(cli.folder) for path in set(cli.folder.parent.rglob("*")) - before}
    assert {path.parts[0] for path in made} == {"run"}
    [(_, _, body)] = endpoint.requests
    assert "root:" not in json.dumps(body)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/environ",
        "/proc/self/root/proc/self/cmdline",
        "/sys/kernel/uevent_seqnum",
        "link-to-environ",
        "/dev/zero",
        "/dev/stdin",
        "pipe",
        "folder",
        "file:///etc/passwd",
        "https:/etc/passwd",
        "nul\x00l",
    ],
)
def test_what_is_no_file_on_a_disk_is_not_sent(tmp_path, monkeypatch, path):
    """Neither the environment with its keys, nor devices, pipes, folders, nor file URLs."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("link-to-environ").symlink_to("/proc/self/environ")
    with pytest.raises(RowError):
        read_file(path)


def test_files_by_any_path_are_sent_where_a_column_is_named(tmp_path, monkeypatch):
    """The documented rule: absolute paths, paths upwards and links are the user's own affair."""
    (tmp_path / "here").mkdir()
    (tmp_path / "up.png").write_bytes(b"data")
    monkeypatch.chdir(tmp_path / "here")
    Path("link.png").symlink_to("../up.png")
    for path in ("../up.png", str(tmp_path / "up.png"), "link.png"):
        assert read_file(path) == b"data"


def _steers(text):
    """Whether text would do something to a terminal, or turn its direction."""
    return any(c in text for c in "\x1b\x07\x9b\u202e\x00\x7f")


def test_terminals_are_not_steered(cli, told_by, scripted, answer, chat):
    """Rows, columns, names of files and folders, models, headers and messages of a server with
    control sequences: no command prints one.
    """

    def replies(body, _headers, _nth):
        if body is None:
            return 200, {}, {"data": [{"id": HOSTILE}]}
        content = body["messages"][0].get("content", "1")
        if content.endswith("1"):
            error = {"message": f"{HOSTILE}\n{HOSTILE}", "code": HOSTILE, "type": HOSTILE}
            return 400, {}, {"error": error}
        return 200, {}, answer(HOSTILE, model=HOSTILE, id=HOSTILE, system_fingerprint=HOSTILE)

    base_url = scripted(replies).base_url
    source = cli.folder / f"rows{HOSTILE}.jsonl"
    rows = [chat(n, custom_id=HOSTILE, **{HOSTILE: HOSTILE}) for n in range(3)]
    rows += [{HOSTILE: 1}, {"messages": [{"role": HOSTILE}]}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows) + f"{{{HOSTILE}\n", "utf-8")
    folder = f"run{HOSTILE}"
    told = [
        told_by("validate", source, "--model", HOSTILE),
        told_by("run", "--model", "m", source, "-o", folder, "--base-url", base_url),
        told_by(
            "run", "--model", "m", source, "-o", folder, "--base-url", base_url, "--param", "seed=1"
        ),
        told_by("status", folder),
        told_by("export", folder, "-o", f"{HOSTILE}.csv"),
    ]
    assert [done.code for done in told] == [1, 1, 2, 0, 0]
    part = cli.folder / folder / "results/part-00000000.parquet"
    part.write_bytes(part.read_bytes()[:-5])
    told += [
        told_by("verify", folder),
        told_by("verify", cli.folder / f"none{HOSTILE}"),
        told_by("doctor", "--base-url", base_url, "--model", HOSTILE),
        told_by("run", "--model", "m", source, "-o", folder, "--base-url", base_url),
        told_by(
            "run",
            "--model",
            "m",
            cli.folder / f"no{HOSTILE}",
            "-o",
            "other",
            "--base-url",
            base_url,
        ),
    ]
    for done in told:
        shown = done.out + done.err
        assert not _steers(shown), ascii(shown)
        assert "evil" in shown or "\N{REPLACEMENT CHARACTER}" in shown, shown
    as_json = told_by("status", folder, "--json")
    assert isinstance(json.loads(as_json.out), dict)


FORMULAS = ["=1+1", "+A1", "-A1+9", "@SUM(A1)", "\tx", "\rx", "\nx", "＝1+1", "-- no"]
PLAIN = ["-5", "+3.5e-7", "-1,000", "a=b", "", "x\n=1", "中文", "- "[:1] + "7"]


def test_a_spreadsheet_runs_nothing_of_an_export(cli, here, told_by, scripted, answer, jsonl):
    """Text and names of columns that would be formulas get an apostrophe, numbers do not; and
    --formulas leaves all as it is.
    """
    texts = FORMULAS + PLAIN
    endpoint = scripted(
        lambda body, *_: (200, {}, answer(texts[int(body["messages"][0]["content"])]))
    )
    rows = [
        {"messages": [{"role": "user", "content": str(n)}], "=note": text, "count": -n}
        for n, text in enumerate(texts)
    ]
    assert here(jsonl(rows), "-o", "run", "--base-url", endpoint.base_url).code == 0
    for flags, mark in (((), "'"), (("--formulas",), "")):
        done = told_by("export", "run", "-o", "all.csv", "--force", *flags)
        assert done.code == 0, done.err
        with (cli.folder / "all.csv").open(newline="", encoding="utf-8") as file:
            told = list(csv.DictReader(file))
        want = [mark + text for text in FORMULAS] + PLAIN
        assert [row["content"] for row in told] == want
        assert [row[f"{mark}=note"] for row in told] == want
        assert [int(row["count"]) for row in told] == [-n for n in range(len(texts))]


@pytest.mark.slow
def test_a_long_line_in_a_bomb_takes_no_memory(cli, scripted, answer, chat, tmp_path, published):
    """A line of 512 MiB in a file of 100 KB is one bad row, and is never held."""
    good = json.dumps(chat(0)).encode() + b"\n"
    codec = pa.Codec("zstd")
    piece = codec.compress(b"x" * 2**26, asbytes=True)
    packed = codec.compress(good, asbytes=True)
    small, bomb = tmp_path / "small.jsonl.zst", tmp_path / "bomb.jsonl.zst"
    small.write_bytes(packed)
    bomb.write_bytes(packed + piece * 8 + codec.compress(b"\n", asbytes=True) + packed)
    assert bomb.stat().st_size < 200_000
    url = scripted(lambda *_: (200, {}, answer())).base_url
    peaks = []
    for source in (small, bomb):
        process = cli.start(
            *("run", source, "-o", f"run-{source.name}", "--model", "m", "--base-url", url),
            fresh=True,
        ).process
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        peaks.append(usage.ru_maxrss * 1024)
    assert process.returncode == 1
    assert peaks[1] - peaks[0] < 110 * 2**20, peaks
    statuses = published(cli.folder / f"run-{bomb.name}")["status"].to_pylist()
    assert statuses == ["ok", "error", "ok"]


def test_tls_cannot_be_switched_off():
    """Every context verifies chain and name, and there is no setting that says otherwise."""
    raw = {"input.files": ["-"], "output.dir": "run", "request.model": "m"}
    [endpoint] = resolve.resolve(raw | {"endpoint.base_url": "https://a.example/v1"}).endpoints
    context = tls.context_of(endpoint, {})
    assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    words = ("verify", "insecure", "unsafe", "ssl", "tls", "trust")
    assert not [s.name for s in TABLE if any(word in s.name for word in words)]
    package = Path(tls.__file__).parents[1]
    switches = ("CERT_NONE", "check_hostname = False", "ssl=False", "_create_unverified")
    for path in package.rglob("*.py"):
        text = path.read_text("utf-8")
        assert not [word for word in switches if word in text], path


@pytest.mark.parametrize("host", ["0" + ".0.0.0", "::", "192.168.1.7", "example.com"])
def test_the_simulator_serves_this_machine_alone(told_by, host):
    """An address that others could reach is refused; it protects nothing."""
    with pytest.raises(ValueError, match="loopback"):
        SimulatorOptions(host=host)
    if host == "::":
        done = told_by("simulate", "--host", host)
        assert done.code == 2 and "loopback" in done.err


def test_csv_guard_keeps_large_strings():
    """Columns of either text type are guarded, others are left alone."""
    from batchrun.views.flat import without_formulas

    table = pa.table({"a": pa.array(["=1", None, "b"], pa.large_string()), "n": [-1, -2, 3]})
    guarded = without_formulas(table)
    assert guarded.schema == table.schema
    assert guarded.to_pydict() == {"a": ["'=1", None, "b"], "n": [-1, -2, 3]}
    sink = pa.BufferOutputStream()
    pacsv.write_csv(guarded, sink)
