"""The process of a Python scorer: reads a part from stdin, calls the function, writes an array.

``python -P -m batchrun.adapters.scoring.scorer_process FILE FUNCTION SECONDS``. It is started by
``python_scorer``; the function gets a ``pyarrow.Table`` and returns one value per row.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

GRACE_S = 5
"""How long after its time limit the process ends itself, if its parent is gone."""


class WrongAnswerError(Exception):
    """The function did not return one value per row."""


def main() -> NoReturn:
    """Run one scorer over one part, and end the process whatever threads it has left."""
    path, function, seconds = sys.argv[1:]
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(seconds) + GRACE_S)
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints is not the answer
    code = 1
    try:
        table = pq.ParquetFile(pa.PythonFile(io.FileIO(0, closefd=False), mode="r")).read()
        sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123 - until the process ends
        values = one_per_row(loaded(path, function)(table), table.num_rows)
        with pa.ipc.new_stream(answer, pa.schema([("value", values.type)])) as writer:
            writer.write_batch(pa.record_batch([values], names=["value"]))
        answer.flush()
        code = 0
    except WrongAnswerError as error:
        print(error, file=sys.stderr)  # noqa: T201 - read by the process that started this one
    except SystemExit as error:
        print(f"it called sys.exit({error.code!r})", file=sys.stderr)  # noqa: T201
    except BaseException:  # noqa: BLE001 - reported to the process that started this one
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def loaded(path: str, function: str) -> Callable[[pa.Table], Any]:
    """The function of a file, whose folder is searched for modules. Raises ``WrongAnswerError``."""
    file = Path(path).resolve()
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        message = f"{path} cannot be loaded"
        raise WrongAnswerError(message)
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        message = f"{path} has no function {function!r}"
        raise WrongAnswerError(message)
    scorer: Callable[[pa.Table], Any] = found
    return scorer


def one_per_row(returned: Any, rows: int) -> pa.Array:
    """What a function returned, as booleans or doubles; values that are not finite are null. Raises
    ``WrongAnswerError``.
    """
    if returned is None or isinstance(returned, (str, bytes, dict, int, float)):
        message = f"it returned {type(returned).__name__}, not one value per row"
        raise WrongAnswerError(message)
    try:
        if isinstance(returned, pa.ChunkedArray):
            array = returned.combine_chunks()
        elif isinstance(returned, pa.Array):
            array = returned
        else:
            array = pa.array(_plain(list(returned)))
    except (pa.ArrowException, TypeError, ValueError) as error:
        message = f"it returned values that are not true, false, numbers or null: {error}"
        raise WrongAnswerError(message) from None
    if len(array) != rows:
        message = f"it returned {len(array):,} values for {rows:,} rows"
        raise WrongAnswerError(message)
    kind = array.type
    if pa.types.is_boolean(kind):
        return array
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not numeric and not pa.types.is_null(kind):
        message = f"it returned values of type {kind}; a score is true or false, or a number"
        raise WrongAnswerError(message)
    numbers = array.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))


def _plain(values: list[Any]) -> list[Any]:
    """Values from numpy and similar libraries as Python values; true and 1 do not mix."""
    plain = [
        value.item()
        if hasattr(value, "item") and not isinstance(value, (bool, int, float))
        else value
        for value in values
    ]
    kinds = {type(value) for value in plain if value is not None}
    if bool in kinds and kinds - {bool}:
        message = "it returned true or false for some rows and other values for others"
        raise WrongAnswerError(message)
    return [None if isinstance(value, float) and math.isnan(value) else value for value in plain]


if __name__ == "__main__":
    main()
