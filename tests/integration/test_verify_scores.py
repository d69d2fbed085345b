"""``batchrun verify`` over scores, metrics and gates: every kind of damage is found and named."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.views.verify import verify
from batchrun.views.verify.findings import KINDS
from tests.harness.slow import rest_slow

TABLES = """
[scores]
good = "content = 'A'"
size = { sql = "len(content)", errors = "skip" }
given = { python = "s.py:f" }
[metrics]
share = "avg(good)"
by_topic = { value = "avg(good)", by = "topic" }
ratio = "sum(good) / count(good)"
p90 = "quantile_cont(size, 0.9)"
given = "avg(given)"
[gates]
share = "<= 0.5"
error_rate = "<= 0.5"
"""
PART = "part-00000001.parquet"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run with scores, one of its rows failed."""
    import batchrun
    from batchrun.simulator.embedded import EmbeddedSimulator
    from batchrun.simulator.plan import SimulatorOptions

    folder = tmp_path_factory.mktemp("scored")
    (folder / "s.py").write_text("def f(table):\n    return [0.5] * table.num_rows\n")
    (folder / "c.toml").write_text(TABLES.replace("s.py:f", f"{folder}/s.py:f"))
    rows = [
        {"messages": [{"role": "user", "content": f"q {n}"}], "topic": f"t{n % 2}"}
        for n in range(12)
    ]
    rows[5] = {"topic": "t1"}
    with EmbeddedSimulator(SimulatorOptions()) as endpoint:
        batchrun.run(
            rows,
            output=folder / "run",
            config=folder / "c.toml",
            base_url=endpoint.base_url,
            model="m",
            shard_rows=4,
        )
    return folder / "run"


class Run:
    """A copy to be damaged."""

    def __init__(self, folder):
        self.folder = folder

    def check(self):
        """What verify finds."""
        return verify.check(str(self.folder))

    def summary(self, change):
        """Change ``summary.json``."""
        path = self.folder / "summary.json"
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))

    def part(self, change, name=PART):
        """Write a part of the scores again, changed, with the metadata that it had."""
        path = self.folder / "scores" / name
        table = pq.read_table(path)
        changed = change(table)
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run."""
    shutil.copytree(made, tmp_path / "run")
    return Run(tmp_path / "run")


def with_cell(column, value, row=1):
    """A table with one value changed."""

    def change(table):
        values = table.column(column).to_pylist()
        values[row] = value
        place = table.schema.get_field_index(column)
        return table.set_column(place, column, pa.array(values, table.schema.field(column).type))

    return change


def with_metadata(**changes):
    """Change what a part says that it was made from."""

    def damage(run):
        path = run.folder / "scores" / PART
        table = pq.read_table(path)
        told = json.loads(table.schema.metadata[b"batchrun.made_from"])
        told |= changes
        metadata = table.schema.metadata | {b"batchrun.made_from": json.dumps(told).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), path)

    return damage


def set_in(*keys, value):
    """Set a value in the summary."""

    def damage(run):
        def change(summary):
            for key in keys[:-1]:
                summary = summary[key]
            summary[keys[-1]] = value

        run.summary(change)

    return damage


DAMAGES = {
    "a part removed": (
        lambda r: (r.folder / "scores" / PART).unlink(), "scores_missing", f"scores/{PART}"),
    "a part of noise": (
        lambda r: (r.folder / "scores" / PART).write_bytes(b"noise"), "scores_unreadable", PART),
    "a column removed": (
        lambda r: r.part(lambda t: t.drop_columns(["size"])), "scores_columns", PART),
    "a row removed": (lambda r: r.part(lambda t: t.slice(1)), "scores_rows", PART),
    "another row": (lambda r: r.part(with_cell("row", 99)), "scores_rows", PART),
    "a boolean changed": (
        lambda r: r.part(with_cell("good", True)), "scores_values", "good has"),
    "a number changed": (lambda r: r.part(with_cell("size", 1.0)), "scores_values", "size has"),
    "a null": (lambda r: r.part(with_cell("size", None, 0)), "scores_values", "size has"),
    "a value of Python's changed": (
        lambda r: r.part(with_cell("given", 1.0)), "scores_values", "given has other values"),
    "a failed row scored": (
        lambda r: r.part(with_cell("good", True)), "scores_values", "failed rows scored"),
    "other results": (with_metadata(results="0" * 64), "scores_stale", "other results"),
    "another definition": (
        with_metadata(scores={"good": "0"}), "scores_stale", "another definition"),
    "a broken record": (
        set_in("settings", "scores", value={"good": 3}), "score_settings", "good"),
    "another count": (
        set_in("scores", "good", "scored", value=3), "score_counts", "counts 3 scored"),
    "another metric": (
        set_in("metrics", "share", "value", value=0.9), "metric", "share: value 0.9"),
    "another group": (
        set_in("metrics", "by_topic", "groups", "t1", "value", value=0.9), "metric", "of t1"),
    "another bound": (
        set_in("metrics", "ratio", "as_if_errors_right", value=0.99), "metric",
        "as_if_errors_right"),
    "an interval elsewhere": (
        lambda r: r.summary(lambda s: s["metrics"]["p90"].update(low=1e9, high=2e9)), "metric",
        "misses"),
    "a metric removed": (
        lambda r: r.summary(lambda s: s["metrics"].pop("p90")), "metric", "no metric p90"),
    "a verdict turned": (
        set_in("gates", "error_rate", "verdict", value="warn"), "gate", "error_rate"),
    "a gate removed": (
        lambda r: r.summary(lambda s: s["gates"].pop("share")), "gate", "no verdict"),
    "a draft": (
        lambda r: (r.folder / "scores" / f".{PART}.tmp").write_bytes(b""), "left_over", "leftover"),
    "a stranger": (lambda r: (r.folder / "scores" / "x.txt").write_text(""), "stray", "x.txt"),
    "exit code 4 without a verdict": (
        set_in("exit_code", value=4), "summary_status", "exit code 4"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "kind", "words"), rest_slow(DAMAGES.values(), 4, several=True), ids=[*DAMAGES]
)
def test_damage_is_found_and_named(run, damage, kind, words):
    """Each damage is told as what it is."""
    damage(run)
    report = run.check()
    assert kind in report.kinds, (report.kinds, report.problems)
    assert any(words in problem for problem in report.problems), report.problems


def test_a_sound_run_is_sound(run):
    """Nothing is found where nothing is wrong; Python is noted as not run."""
    report = run.check()
    assert report.problems == []
    assert any("Python" in note for note in report.notes)


def test_every_kind_is_proven():
    """No check of scores is without a case above that turns it red."""
    proven = {kind for _, kind, _ in DAMAGES.values()}
    own = {kind for kind in KINDS if kind.startswith(("score", "metric", "gate"))}
    assert own <= proven
