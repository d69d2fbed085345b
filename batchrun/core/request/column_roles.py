"""What the columns of a row are for: which are sent, which are carried, which one is its id.

With a prompt every row is a data row and every column is data, whatever it is called: nothing of it
is sent but what ``--send`` names. Rows that bring their messages send the parameters among their
columns, or those that ``--send`` names. The body of an OpenAI Batch line is sent as it is.

``body.split`` does the same for the plainest case: JSON rows with messages, and no setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from batchrun.core.request import cells
from batchrun.core.request.body import Split, id_text, kind_of, split
from batchrun.core.settings.parameters import ENVELOPE, OF_THE_RUN, SENT
from batchrun.errors import RowError
from batchrun.records import JsonObject

ALL = "all"
JSON = frozenset({"jsonl", "json"})
"""Formats whose values have the types that they have in a request."""
WITHHELD = frozenset({"user", "metadata", "store"})
"""Parameters that tables have as columns of their own data more often than not: an e-mail address,
notes, a shop. In a table they are sent only where ``--send`` names them."""
_KNOWN = (SENT | {"extra_body"}) - OF_THE_RUN
_ENVELOPE = ENVELOPE - {"custom_id"}
_CELLS: Mapping[str, Callable[[str, str], object]] = {"csv": cells.text, "tsv": cells.text}


class Roles:
    """Tells one row's fields apart. ``kind`` is the input's format; ``prompted`` says that the
    settings make the messages; ``send`` is the setting of that name, ``identity`` the column of
    ``input.id``.

    Readers of tables ask which columns they have to read as parameters (``consumed``); every other
    column reaches this as data, and what is sent of those becomes JSON here. ``needs`` are the
    columns that have to be among the fields, and ``sends`` those of them that are sent.
    """

    def __init__(
        self,
        kind: str,
        *,
        prompted: bool,
        send: str | tuple[str, ...] | None = None,
        identity: str | None = None,
    ) -> None:
        self.prompted = prompted
        self._id = identity or "custom_id"
        self._named = send if isinstance(send, tuple) else ()
        self._cell = _CELLS.get(kind, None if kind in JSON else cells.typed)
        hidden = {"custom_id"} if identity is None else set()
        if send in (None, ALL):
            withheld = set() if kind in JSON else WITHHELD
            self._sent = (SENT - withheld - {self._id}) | {"messages"}
            hidden.add("extra_body")
        else:
            self._sent = frozenset({"messages"})
        self._hidden = frozenset(hidden)
        self._envelope = _ENVELOPE | self._hidden - {"extra_body"}
        self._everything = prompted and send == ALL
        self.sends = _KNOWN - {self._id} if self._everything else frozenset(self._named)
        self._plain = not (prompted or self.sends or identity)
        self.needs = self.sends | ({self._id} if identity else frozenset())

    @property
    def texts_alone(self) -> bool:
        """Whether every cell of the input is text, whatever it stands for."""
        return self._cell is cells.text

    def consumed(self, names: Sequence[str]) -> frozenset[str]:
        """Which columns of a table are parameters, the id or the envelope, and nothing else."""
        if self.prompted:
            return frozenset(names) & self._hidden - {"extra_body"}
        if "body" in names and "messages" not in names:
            return frozenset(names) & self._envelope
        return frozenset(names) & (self._sent | self._hidden)

    def sent_of(self, names: Iterable[str]) -> tuple[str, ...]:
        """The columns of a table that are sent as request parameters."""
        names = tuple(names)
        parameters = (self.consumed(names) & _KNOWN) | self.sends
        return tuple(name for name in names if name in parameters)

    def __call__(self, fields: JsonObject) -> Split:
        """The row told apart. Never raises: one that cannot be has a ``problem``."""
        if self._plain:
            return split(fields, self._sent, self._hidden, self._envelope)
        if self.prompted:
            carried = fields
            if "custom_id" in fields and "custom_id" in self._hidden:
                carried = {key: value for key, value in fields.items() if key != "custom_id"}
            apart = Split(None, {}, carried)
        else:
            apart = split(fields, self._sent, self._hidden, self._envelope)
        try:
            custom_id = self._custom_id(fields)
            if apart.body is not None and self.sends and self._is_open(fields):
                body = {**apart.body, **self._parameters(fields)}
                return Split(custom_id, body, apart.carried, apart.problem)
        except (RowError, ValueError) as error:
            return Split(None, None, apart.carried, str(error))
        return Split(custom_id, apart.body, apart.carried, apart.problem)

    def _is_open(self, fields: JsonObject) -> bool:
        """Whether parameters are added to a row: the body of a Batch line stays as it is."""
        return self.prompted or kind_of(fields) != "batch line"

    def _custom_id(self, fields: JsonObject) -> str | None:
        value = fields.get(self._id)
        if isinstance(value, RowError):
            raise value
        return id_text(None if value == "" and self.texts_alone else value)

    def _parameters(self, fields: JsonObject) -> JsonObject:
        """What is sent of the columns that are data as well. Null is not sent."""
        found: JsonObject = {}
        for name in self._named or [name for name in fields if name in self.sends]:
            value = fields.get(name)
            if isinstance(value, RowError):
                raise value
            # No parameter has a name of the envelope: as one it is whatever the column holds.
            if value is not None and self._cell is not None and name not in ENVELOPE:
                value = self._cell(name, value)
            if value is not None:
                found[name] = value
        extra = found.pop("extra_body", None)
        if extra is None:
            return found
        if not isinstance(extra, dict):
            message = "extra_body is not a JSON object"
            raise RowError(message)
        return found | {key: value for key, value in extra.items() if key not in OF_THE_RUN}


class SeenColumns:
    """Which columns of JSON rows are sent, as far as rows were looked at."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}
        self._passed = set(OF_THE_RUN)

    def note(self, fields: JsonObject, apart: Split, *, prompted: bool) -> None:
        """Take in one row."""
        body = apart.body
        if body is None or (body.keys() <= self._passed and "extra_body" not in fields):
            return
        if not prompted and kind_of(fields) == "batch line":
            return
        self._known.update({key: None for key in fields if key in body and key not in OF_THE_RUN})
        self._passed.update(body)
        extra = fields.get("extra_body")
        if isinstance(extra, dict) and extra and extra.keys() - OF_THE_RUN <= body.keys():
            self._known["extra_body"] = None

    def names(self) -> tuple[str, ...]:
        """The names, in order of their appearance."""
        return tuple(self._known)


NAMES_SHOWN = 40


def notice(sent: Sequence[str], carried: Sequence[str], model: str | None) -> str:
    """What is sent and what is carried, in a sentence or two. ``model`` is the run's own."""
    text = f"columns sent as request parameters: {_listed(sent)}; carried: {_listed(carried)}"
    if "model" in sent:
        over = "" if model is None else f", not {model!r} of the settings,"
        text += f". A row's `model` is the model that is asked{over} where it has one"
    return f"{text}. With --send none they are data" if sent else text


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(names[:NAMES_SHOWN]) or "none") + more
