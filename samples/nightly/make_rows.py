"""Makes questions.jsonl beside this script: 200 questions with four choices, each with its fact.

The simulator knows no facts: it picks a letter by the text of the request. So that the nights have
figures to speak of, the choices and their order are drawn until the letter that the simulated model
`sim-small` picks is the right one, in 168 of 200 questions, or a wrong one, in the others. Another
model picks other letters, and is right by chance.
"""

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

import batchrun

HERE = Path(__file__).parent
COUNT, RIGHT, ORDERS = 200, 168, 40
UNITS = {"minutes": ("hours", 60), "days": ("weeks", 7), "months": ("years", 12)}


def facts() -> Iterator[tuple[str, str, int]]:
    """Topic, question, and the number that answers it."""
    dice = random.Random(4)
    while True:
        one, other = dice.randint(12, 99), dice.randint(3, 19)
        yield "sums", f"What is {one} + {other}?", one + other
        yield "products", f"What is {one} times {other}?", one * other
        yield (
            "remainders",
            f"What is the remainder of {one * 7} divided by {other}?",
            one * 7 % other,
        )
        small = dice.choice(list(UNITS))
        large, factor = UNITS[small]
        yield "units", f"How many {small} are {other} {large}?", other * factor


def candidates() -> list[list[dict[str, str]]]:
    """For each question, the same row with its choices in several orders."""
    dice = random.Random(7)
    found: list[list[dict[str, str]]] = []
    seen: set[str] = set()
    for topic, question, fact in facts():
        if question in seen:
            continue
        seen.add(question)
        rows = []
        for _ in range(ORDERS):
            near = [fact + step for step in (-10, -2, -1, 1, 2, 3, 10) if fact + step >= 0]
            choices = [fact, *dice.sample(near, 3)]
            dice.shuffle(choices)
            rows.append(
                {
                    "custom_id": f"{topic}-{len(found):03}",
                    "topic": topic,
                    "question": question,
                    **dict(zip("abcd", map(str, choices), strict=True)),
                    "expected": "ABCD"[choices.index(fact)],
                }
            )
        found.append(rows)
        if len(found) == COUNT:
            return found
    raise AssertionError


def main() -> None:
    """Write the file."""
    rows = candidates()
    wrong = set(random.Random(11).sample(range(COUNT), COUNT - RIGHT))
    with tempfile.TemporaryDirectory() as folder:
        summary = batchrun.run(
            [row for some in rows for row in some],
            config=HERE / "nightly.toml",
            output=Path(folder, "run"),
            provider="simulator",
            metrics={},
            gates={},
        )
        content = pq.read_table(summary.results_path, columns=["content"]).column("content")
        picked = [json.loads(text)["answer"] for text in content.to_pylist()]
    lines = []
    for number, some in enumerate(rows):
        letters = picked[number * ORDERS : (number + 1) * ORDERS]
        is_wrong = number in wrong
        lines.append(
            next(
                row
                for row, letter in zip(some, letters, strict=True)
                if (letter != row["expected"]) is is_wrong
            )
        )
    (HERE / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
