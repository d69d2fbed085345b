"""What the documentation tells people to type works as it stands."""

import csv
import gzip
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter

from batchrun.core.request import prompt as prompts
from batchrun.core.settings import resolve as config
from batchrun.core.settings.table import BY_NAME, TABLE
from batchrun.core.settings.values import checked
from tests.harness import door

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)(?: ([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path, language):
    """The fenced blocks of a page in one language: what stands behind the language, the text."""
    text = (ROOT / path).read_text("utf-8")
    return [(info, body) for lang, info, body in FENCE.findall(text) if lang == language]


def marked(path):
    """The shell blocks that are marked to be run."""
    found = [body for info, body in blocks(path, "sh") if "run" in info.split()]
    assert found, f"{path} has no block marked with ```sh run"
    return found


@pytest.fixture(scope="module")
def stand_in():
    """How a shell starts the command, forked."""
    with door.opened() as words:
        yield words


@pytest.fixture
def shell(tmp_path, stand_in):
    """Runs text in a shell, in a copy of the checkout's samples, with the command on PATH."""
    folder, programs = tmp_path / "checkout", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    shutil.copytree(ROOT / "samples", folder / "samples")
    shutil.copy(ROOT / "config.toml", folder)
    python = shlex.quote(sys.executable)
    for name, command in [("python", python), ("batchrun", stand_in)]:
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n', "utf-8")
        program.chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }

    def run(text):
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", text],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{text}\nexit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    run.folder = folder
    return run


START = "docs/start.md"
CHINESE = "README.zh-CN.md"


@pytest.mark.slow
def test_the_readme_blocks_run(shell):
    """The session of the README prints what the page shows, apart from times and ports."""
    (session,) = [body for info, body in blocks("README.md", "text") if info == "session"]
    seen = "".join(shell(text) for text in marked("README.md"))

    def timeless(text):
        return re.sub(r"\b\d+(\.\d+)?m?s\b|:\d{4,5}/v1", "...", text)

    for line in timeless(session).splitlines():
        assert line in timeless(seen), line


@pytest.mark.slow
def test_the_chinese_blocks_run(shell):
    """The session of the page in Chinese runs, and its answers are read."""
    seen = "".join(shell(text) for text in marked(CHINESE))
    assert "verified: every row is accounted for" in seen and "00005" in seen
    assert (shell.folder / "answers.csv").read_bytes().startswith(b"\xef\xbb\xbf")


def test_the_chinese_page_reaches_its_providers(cli, scripted, answer, jsonl):
    """Every run that it shows for a provider ends well, with that provider's key and model."""
    endpoint = scripted(lambda *_: (200, {}, answer()))
    jsonl(2).rename(cli.folder / "rows.jsonl")
    script = "\n".join(body for info, body in blocks(CHINESE, "sh") if info == "providers")
    for key, name in (
        ("DEEPSEEK", "deepseek"),
        ("MODELVERSE", "ucloud"),
        ("DASHSCOPE", "qwen"),
        ("MOONSHOT", "kimi"),
        ("ZHIPUAI", "glm"),
    ):
        script = re.sub(rf"\b{key}_API_KEY=\S+", f"{key}_API_KEY=key-for-{name}", script)
    script = re.sub(r"(--provider \S+)", rf"\1 --base-url {endpoint.base_url}", script)
    done = cli.shell(script)
    assert done.returncode == 0, done.stderr
    shown = {
        (headers.get("Authorization"), body["model"].partition("/")[0])
        for _, headers, body in endpoint.requests
    }
    assert shown == {
        ("Bearer key-for-deepseek", "deepseek-chat"),
        ("Bearer key-for-ucloud", "deepseek-ai"),
        ("Bearer key-for-qwen", "qwen-plus"),
        ("Bearer key-for-kimi", "kimi-k2.6"),
        ("Bearer key-for-glm", "glm-5.3"),
        (None, "Qwen"),
    }


def test_the_chinese_page_is_punctuated_in_chinese():
    """No comma, colon, semicolon or question mark of ASCII follows a Chinese character outside of
    code.
    """
    text = FENCE.sub("", (ROOT / CHINESE).read_text("utf-8"))
    prose = re.sub(r"`[^`]*`", "", text)
    assert re.findall(r"[\u4e00-\u9fff][,:;?!].{0,10}", prose) == []


def test_the_figures_of_the_readmes_are_those_of_the_benchmarks():
    """CPU seconds for 1,000 rows: in the bullets and in the table of alternatives they are what
    `make bench` wrote into its page last.
    """
    page = (ROOT / "benchmarks" / "RESULTS.md").read_text("utf-8")
    table = page.partition("### 5,000 rows, 0 ms, plain\n")[2].partition("\n### ")[0]
    cpu_s = dict(re.findall(r"^\| ([\w ,]+?)(?: †)? \| ([\d.]+) \|", table, re.MULTILINE))
    english = (ROOT / "README.md").read_text("utf-8")
    chinese = (ROOT / CHINESE).read_text("utf-8")
    advice = "the figures of benchmarks/RESULTS.md changed: write them into README.md, too"
    ours, theirs = cpu_s["batchrun"], cpu_s["openai"]
    bullet = f"{ours} s of CPU per 1,000 rows, where the OpenAI SDK takes {theirs} s"
    assert bullet in english, advice
    assert f"每 1,000 行只用 {ours} 秒 CPU，OpenAI SDK 要 {theirs} 秒" in chinese, advice
    lines = re.findall(r"^\| \[?([\w ]+)[^|]*\|[^|]*\|[^|]*\| ([\d.]+) \|", english, re.MULTILINE)
    names = {
        "batchrun 0": "batchrun",
        "OpenAI SDK": "openai",
        "flexllm": "flexllm",
        "Curator": "curator",
        "LiteLLM": "litellm",
    }
    assert {names[name]: cpu for name, cpu in lines} == {
        name: cpu_s[name] for name in names.values()
    }, advice


def test_the_readme_stays_short():
    """A front page is read when it fits on a few screens."""
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


def test_the_index_names_every_guide():
    """Each page of docs/ is linked from their index, or from it by way of no other page."""
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", index))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}


@pytest.mark.slow
def test_the_start_page_runs(shell):
    """The walk of the first guide: a run, a kill, a resume, a check, and reading the results."""
    begun = "until [ -e walk/checkpoint/status.json ]; do sleep 0.1; done; sleep 1"
    blocks_of_it = [text.replace("sleep 3", begun) for text in marked(START)]
    seen = [shell(text) for text in blocks_of_it]
    assert "verified: every row is accounted for" in seen[0]
    assert "killed" in seen[1]
    assert "complete: 60 of 60 rows ok, 0 failed" in seen[2]
    results = pq.read_table(shell.folder / "walk" / "results", partitioning=None)
    assert results.column("row").to_pylist() == list(range(60))
    again = shell("batchrun run samples/batch_lines.jsonl -o walk --provider simulator --rpm 900")
    assert "nothing left to send" in again


@pytest.mark.slow
def test_the_samples_blocks_run(shell):
    """The commands in the samples' README."""
    for text in marked("samples/README.md"):
        assert "0 failed" in shell(text)


TEMPLATES = "docs/templates.md"


@pytest.mark.slow
def test_the_blocks_about_templates_run(shell):
    """Every command and every configuration of the page about templates does without a failure."""
    (row,) = [body for info, body in blocks(TEMPLATES, "json") if info == "row"]
    (shell.folder / "values.jsonl").write_text(row, "utf-8")
    for text in marked(TEMPLATES):
        assert " 0 failed" in shell(text)
    configs = [(info.partition("=")[2], body) for info, body in blocks(TEMPLATES, "toml")]
    assert all(name for name, _ in configs)
    for name, body in configs:
        (shell.folder / f"{name}.toml").write_text(body, "utf-8")
        assert " 0 failed" in shell(f"batchrun run -c {name}.toml")


def test_the_page_about_templates_tells_what_is_rendered():
    """The row on the page, by the template on the page, is the text on the page."""
    (config_text,) = [body for info, body in blocks(TEMPLATES, "toml") if info == "run=values"]
    (row,) = [json.loads(body) for info, body in blocks(TEMPLATES, "json") if info == "row"]
    (rendered,) = [body for info, body in blocks(TEMPLATES, "text") if info == "rendered"]
    plan = prompts.plan(config.resolve(config.from_toml(config_text, path=TEMPLATES)))
    made = plan.shaper([row], lambda _: b"")(row)
    assert made.body["messages"] == [{"role": "user", "content": rendered.rstrip("\n")}]


DATA = "docs/data.md"


@pytest.fixture
def page_of_data(shell):
    """The shell, with the configurations of the page about data in their files."""
    for info, body in blocks(DATA, "toml"):
        (shell.folder / info.removeprefix("file=")).write_text(body, "utf-8")
    return shell


def results(shell, folder):
    """The results of a run directory that some block made; its accounting holds."""
    assert "verified" in shell(f"batchrun verify {folder}")
    return pq.read_table(shell.folder / folder / "results", partitioning=None)


@pytest.mark.slow
def test_the_blocks_about_data_run(page_of_data):
    """Every command of the page, in its order; each run comes to what the page says of it."""
    shell = page_of_data
    seen = "".join(shell(text) for text in marked(DATA))
    text = (ROOT / "samples/questions.csv").read_text("utf-8")
    questions = list(csv.DictReader(io.StringIO(text)))
    answers = results(shell, "answers")
    for name in ("id", "question", "asked_on"):
        assert answers[name].to_pylist() == [row[name] for row in questions]
    assert answers["status"].to_pylist() == ["ok"] * len(questions)
    assert "valid: all 20 rows" in seen and "00005" in seen
    assert "exit code 1: some rows failed" in seen
    assert "uneven.csv line 3: 3 fields where the header has 2" in seen
    assert results(shell, "uneven")["attempts"].to_pylist() == [1, 1, 1]
    assert results(shell, "german")["question"].to_pylist() == ["Wo ist das Gerät, bitte?"]
    (said,) = [body for info, body in blocks(DATA, "text") if info == "german"]
    assert said.strip() in seen
    assert "exit code 2: nothing was sent" in seen
    attempts = results(shell, "changing")["attempts"].to_pylist()
    assert sorted(attempts) == [*[1] * 19, 2]
    assert results(shell, "replies")["attempts"].to_pylist() == [1] * 30
    assert pq.read_table(shell.folder / "replies.parquet").num_rows == 30
    assert len((shell.folder / "batch_output.jsonl").read_text("utf-8").splitlines()) == 60
    assert (shell.folder / "batch_errors.jsonl").read_bytes() == b""
    assert "describe-enamel-kettle-en" in seen
    for night in ("nights/2024-05-01", "nights/2024-05-02"):
        assert results(shell, night)["expected"].null_count == 0


@pytest.mark.slow
def test_the_walk_takes_less_than_five_commands(page_of_data):
    """From a CSV to a data frame of its answers, as the first section of the page has it."""
    text = (ROOT / DATA).read_text("utf-8")
    section = text.partition("\n## From a CSV")[2].partition("\n## ")[0]
    walk = [body for language, _, body in FENCE.findall(section) if language == "sh"]
    assert len(walk) < 5
    seen = "".join(page_of_data(body) for body in walk)
    assert "00005" in seen and "19  10946" in seen


@pytest.mark.slow
def test_every_source_of_the_table_runs(page_of_data):
    """Each command of the table of sources answers all questions of the sample, in order."""
    shell, folder = page_of_data, page_of_data.folder
    plain = (folder / "samples/questions.csv").read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(plain)))
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = pa.Table.from_pylist(rows)

    def write(name, part, **how):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), **how)
            writer.writeheader()
            writer.writerows(part)

    for name in ("rows.csv", "export.txt"):
        write(name, rows)
    write("rows.tsv", rows, delimiter="\t")
    (folder / "rows.csv.gz").write_bytes(gzip.compress(plain.encode()))
    (folder / "rows.jsonl").write_bytes(lines)
    (folder / "rows.ndjson.zst").write_bytes(pa.compress(lines, "zstd", asbytes=True))
    pq.write_table(table, folder / "rows.parquet")
    for name, part in (("may.csv", rows[:9]), ("june.csv", rows[9:])):
        write(name, part)
        write(f"months/{1 + (name == 'june.csv')}.csv", part)
        write(f"lake/lang=de/day={1 + (name == 'june.csv')}/rows.csv", part)
    write("export.csv", rows, delimiter=";")
    (folder / "export.csv").write_text((folder / "export.csv").read_text("utf-8"), "utf-16")
    (folder / "rows.json").write_text(json.dumps(rows, indent=1))
    with xlsxwriter.Workbook(folder / "rows.xlsx") as book:
        book.add_worksheet("April").write(0, 0, "nothing")
        sheet = book.add_worksheet("May")
        for number, row in enumerate([list(rows[0]), *(list(row.values()) for row in rows)]):
            sheet.write_row(number, 0, row)
    text = (ROOT / DATA).read_text("utf-8")
    commands = re.findall(r"^\| [^|]+ \| `((?:[^`])+ -o (out-[\w-]+))` \|$", text, re.MULTILINE)
    assert len(commands) == 15
    shell("\n".join(command.replace("\\|", "|") for command, _ in commands))
    for _, output in commands:
        found = pq.read_table(folder / output / "results", partitioning=None)
        assert found["question"].to_pylist() == [row["question"] for row in rows], output
        assert found["status"].to_pylist() == ["ok"] * len(rows)
        assert found["id"].to_pylist() == [row["id"] for row in rows]


def test_continuous_integration_runs_the_tests_as_the_readme_does():
    """`.ci/run` makes `test-all`, which begins with the very command of `make test`."""
    text = (ROOT / "README.md").read_text("utf-8")
    told = set(re.findall(r"\bmake (test[\w-]*)", text))
    assert told == {"test", "test-all"}
    assert 'make PYTHON="$python" test-all' in (ROOT / ".ci" / "run").read_text("utf-8")

    def commands(target):
        done = subprocess.run(
            ["make", "-n", target, "WORKERS=2", "SLOW_WORKERS=2"],
            cwd=ROOT,
            capture_output=True,
            encoding="utf-8",
            timeout=240,
            check=True,
        )
        return [line for line in done.stdout.splitlines() if "pytest" in line]

    (quick,) = commands("test")
    assert commands("test-all") == [quick, quick.replace("not slow and", "slow and")]


def test_the_demo_config_runs(shell):
    """`config.toml` is the demo's configuration."""
    seen = shell(
        "batchrun run -c config.toml && batchrun status demo-run && batchrun verify demo-run"
    )
    assert "complete: 60 of 60 rows ok, 0 failed" in seen
    assert "verified" in seen


def test_the_config_blocks_are_valid():
    """Every TOML block of the first pages is a valid configuration."""
    for page in ("README.md", CHINESE, START):
        found = blocks(page, "toml")
        assert found
        for _, body in found:
            raw = config.from_toml(body, path=page)
            config.resolve({"input.files": ["a"], "output.dir": "out"} | raw)


def uncommented():
    """`config.toml` with every commented setting switched on, and which those are."""
    lines, commented = [], set()
    section = ""
    for line in (ROOT / "config.toml").read_text("utf-8").splitlines():
        if table := re.match(r"\[+(\w+)\]+", line):
            section = table[1]
        if setting := re.match(r"# ((\w+) = .*)", line):
            lines.append(setting[1])
            commented.add((f"{section}.{setting[2]}", "# example" in line))
        else:
            lines.append(line)
    return "\n".join(lines), commented


def test_the_config_names_every_setting():
    """Each key of the table stands in `config.toml`, set or commented out, and is valid."""
    text, _ = uncommented()
    raw = config.from_toml(text, path="config.toml")
    assert set(raw) == {setting.name for setting in TABLE}
    raw["request.schema"] = {"type": "object"}  # its file is an example
    raw["output.on_truncation"] = "retry"  # else truncation_limit would mean nothing
    # The two ways to say what the messages are exclude each other, and so do the two inputs.
    files = {name: raw[name] for name in raw if name not in ("input.from", "input.allow_partial")}
    config.resolve({name: files[name] for name in files if name != "request.messages"})
    short = ("request.prompt", "request.system")
    config.resolve({name: files[name] for name in files if name not in short})
    of_files = ("files", "quoting", "delimiter", "encoding", "send")
    left_out = {"request.messages", *(f"input.{name}" for name in of_files)}
    config.resolve({name: raw[name] for name in raw if name not in left_out})


def test_the_config_tells_the_defaults():
    """A setting that is commented out, and no example, has the value that it has anyway."""
    text, commented = uncommented()
    document = tomllib.loads(text)
    for name, example in commented:
        section, _, key = name.partition(".")
        content = document[section]
        value = (content[0] if isinstance(content, list) else content)[key]
        default = (BY_NAME.get(name) or BY_NAME[section]).default
        if default in (None, {}, ()):
            assert example, f"{name} has no default: mark the line as an example"
        else:
            known = checked(BY_NAME[name], value)
            assert not example and known == default, f"{name} is {value}, the default {default}"


def test_the_exit_codes_of_the_start_page_are_those_of_the_reference():
    """The short table and the complete one name the same codes."""
    codes = []
    for path in (START, "docs/reference.md"):
        section = (ROOT / path).read_text("utf-8").partition("\n## Exit codes\n")[2]
        section = section.partition("\n## ")[0]
        cells = re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE)
        codes.append({int(number) for cell in cells for number in cell.split(",")})
    assert codes[0] == codes[1]


def test_links_and_files_named_in_the_docs_exist():
    """No page links to a file that is not there, and the architecture names no gone module."""
    first = [ROOT / name for name in ("README.md", CHINESE, "CHANGELOG.md")]
    pages = [*first, *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        text = page.read_text("utf-8")
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"
        for module in re.findall(
            r"`((?:core|engine|adapters|views|cli|simulator)/[\w/]+\.py)`", text
        ):
            assert (ROOT / "batchrun" / module).exists(), f"{page}: {module}"
        for file in re.findall(r"`((?:batchrun|tests|docs|benchmarks)/[\w/.-]+\.\w+)`", text):
            assert (ROOT / file).exists(), f"{page}: {file}"
