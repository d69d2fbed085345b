"""``batchrun estimate --detect``: what it takes to see a difference, from real run directories."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = 60
PRICES = '[prices."m"]\ninput = 1\noutput = 4\n'


@pytest.fixture
def source(jsonl, cli):
    """Rows, the last twenty of which repeat the twenty before; and a config with prices."""
    (cli.folder / "c.toml").write_text(PRICES)
    texts = [*range(40), *range(20, 40)]
    return jsonl([{"messages": [{"role": "user", "content": f"question {n}"}]} for n in texts])


@pytest.fixture
def run(scripted, answer, source, here):
    """Makes a run in which the first questions have another answer: ``run("b", changed=6)``."""

    def made(directory, changed=0, unsteady=0):
        def reply(body, _headers, nth):
            number = int(body["messages"][-1]["content"].split()[-1])
            again = nth if 20 <= number < 20 + unsteady else 0
            return 200, {}, answer(f"{'other' if number < changed else 'same'} {again}")

        flags = ["-o", directory, "--base-url", scripted(reply).base_url, "--no-progress"]
        done = here(source, *flags)
        assert done.code == 0, done.err
        return directory

    return made


@pytest.fixture
def detect(cli, source):
    """The object ``detect`` of the report, and its notes."""

    def report(*flags, difference="0.05"):
        found = cli("estimate", source, "-c", "c.toml", "--model", "m", "--json", "--detect",
                    difference, *flags)  # fmt: skip
        assert found.code == 0, found.err
        said = json.loads(found.out)
        return said["detect"], " ".join(said["notes"])

    return report


def scored(directory, **scores):
    """Adds boolean scores to a run, as `batchrun score` stores them."""
    folder = Path(directory, "scores")
    folder.mkdir()
    for part in Path(directory, "results").glob("part-*.parquet"):
        rows = pq.read_table(part, columns=["row"]).column("row")
        columns = {name: [f(row) for row in rows.to_pylist()] for name, f in scores.items()}
        pq.write_table(
            pa.table({"row": rows, "custom_id": [""] * len(rows), **columns}), folder / part.name
        )


def test_without_runs_the_rate_is_assumed(detect):
    """And the report says so; rows, repeats and dollars fit together."""
    found, notes = detect()
    assert (found["flip_rate"], found["flip_rate_from"]) == (0.1, "assumed")
    assert found["difference"] == 0.05
    assert found["rows"] <= ROWS < found["rows"] * found["repeats"]
    assert found["cost_usd"] > 0
    assert "10.00%, is an assumption" in notes


def test_two_runs_show_how_many_answers_flip(run, detect):
    """Six of 60 answers differ: fewer rows than for eighteen, and more than for none."""
    run("a"), run("b", changed=6), run("c", changed=18), run("d")
    found = [detect("--against", "a", "--against", other)[0] for other in "dbc"]
    assert [each["flip_rate"] for each in found] == [0.0, 0.1, 0.3]
    assert {each["flip_rate_from"] for each in found} == {"answers"}
    sent = [each["rows"] * each["repeats"] for each in found]
    assert sent == sorted(set(sent))


def test_recorded_scores_count_more_than_the_text(run, detect):
    """The score that flips most decides; rows without a value are left out."""
    for directory, shift in (("a", 0), ("b", 3)):
        run(directory, changed=shift * 10)
        scored(
            directory,
            correct=lambda row, shift=shift: row < 20 + shift if row != 59 else None,
            short=lambda _row: True,
            length=float,
        )
    found, notes = detect("--against", "a", "--against", "b")
    assert found["flip_rate"] == pytest.approx(3 / 59)
    assert found["flip_rate_from"] == "scores"
    assert "the score correct between a and b, over 59 pairs" in notes


def test_one_run_with_identical_requests(run, detect):
    """Twenty questions are asked twice, and half of these answers differ."""
    run("a", unsteady=10)
    found, notes = detect("--against", "a")
    assert (found["flip_rate"], found["flip_rate_from"]) == (0.5, "answers")
    assert "between identical requests in a, over 20 pairs" in notes


def test_one_run_with_scores_bounds_the_rate(run, detect):
    """Without repeats it is that of two independent runs with as many right answers."""
    run("a")
    for part in Path("a", "results").glob("part-*.parquet"):
        table = pq.read_table(part)
        place = table.schema.get_field_index("request_hash")
        hashes = pa.array([f"{row:064x}" for row in range(len(table))])
        pq.write_table(table.set_column(place, "request_hash", hashes), part)
    found, notes = detect("--against", "a")
    assert found["flip_rate_from"] == "assumed"
    assert "a has neither repeats nor boolean scores" in notes
    scored("a", correct=lambda row: row % 5 > 0)
    found, notes = detect("--against", "a")
    assert (found["flip_rate"], found["flip_rate_from"]) == (pytest.approx(0.32), "share")
    assert "at most 32.00%: 80.0% of the score correct in a are true, over 60 rows" in notes


def test_a_pilot_against_a_run(run, detect, scripted, answer):
    """The pilot's answers pair with the run's by their requests."""
    run("a")
    endpoint = scripted(
        lambda _body, _headers, nth: (200, {}, answer("same 0" if nth % 2 else "new"))
    )
    found, notes = detect(
        "--against",
        "a",
        "--pilot",
        "20",
        "-o",
        "p",
        "--base-url",
        endpoint.base_url,
        "--no-progress",
    )
    assert found["flip_rate_from"] == "answers"
    assert found["flip_rate"] == pytest.approx(0.5, abs=0.2)
    assert "between p and a" in notes


def test_failed_rows_are_no_flips(run, detect, scripted, answer, here, source):
    """An answer that never came is not another answer."""

    def reply(body, _headers, _nth):
        failed = body["messages"][-1]["content"].endswith(("1", "3"))
        return (400, {}, {"error": {"message": "no"}}) if failed else (200, {}, answer("same 0"))

    run("a")
    flags = ["-o", "b", "--base-url", scripted(reply).base_url, "--no-progress"]
    assert here(source, *flags).code == 1
    found, notes = detect("--against", "a", "--against", "b")
    assert found["flip_rate"] == 0
    assert "over 48 pairs" in notes


def test_reused_answers_are_no_evidence(run, detect, here, source, scripted, answer):
    """An answer that was taken from the other run cannot differ from it."""
    run("a")
    endpoint = scripted(lambda _body, _headers, _nth: (200, {}, answer("new")))
    flags = ["-o", "b", "--base-url", endpoint.base_url, "--reuse", "a", "--no-progress"]
    assert here(source, *flags).code == 0
    assert not endpoint.requests
    found, notes = detect("--against", "a", "--against", "b")
    assert found["flip_rate_from"] == "assumed"
    assert "a and b have fewer than 10 answered requests in common" in notes


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--against", "a"], "give --detect D too"),
        (["--detect", "0"], "--detect"),
        (["--detect", "1"], "--detect"),
        (["--detect", "1%"], "--detect"),
        (["--detect", "0.1", "--against", "nowhere"], "nowhere: no run directory"),
        (["--detect", "0.1"] + ["--against", "a"] * 3, "two run directories at most"),
    ],
)
def test_what_cannot_be_detected(cli, source, flags, says):
    """A mistake ends with 2 and says what to change."""
    done = cli("estimate", source, "--model", "m", *flags)
    assert done.code == 2
    assert says in done.err


def test_a_damaged_part_is_named(run, cli, source):
    """It is not read as a run in which nothing flipped."""
    run("a")
    part = next(Path("a", "results").glob("part-*.parquet"))
    part.write_bytes(part.read_bytes()[:-40])
    done = cli("estimate", source, "--model", "m", "--detect", "0.1", "--against", "a")
    assert done.code == 2
    assert part.name in done.err


def test_the_report_for_people(run, cli, source):
    """A line says what it takes, a note what it rests on; for each of several models."""
    run("a"), run("b", changed=6)
    flags = ["--detect", "0.05", "--against", "a", "--against", "b"]
    done = cli("estimate", source, "-c", "c.toml", "--model", "m", *flags)
    assert "detect   a difference of 0.05 takes" in done.out
    assert "share of answers that differ between a and b" in " ".join(done.out.split())
    done = cli("estimate", source, "--model", "gpt-4o", "--model", "gpt-4o-mini", *flags)
    assert done.out.count("detect   a difference of 0.05") == 2
