"""Data rows become messages: what ``[request]`` says about prompts, applied to a row.

With a prompt every row is a data row (``core.request.column_roles``). Parameters by template are
added to rows of any kind; what a row sends itself always wins.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchrun.core.input import repeats
from batchrun.core.request import cells, columns
from batchrun.core.request.attachment import Attachment, Read, attached, size_of
from batchrun.core.request.body import (
    BODY_BYTES_MAX,
    INT64_MAX,
    INT64_MIN,
    Split,
    has_messages,
    kind_of,
    split,
    split_data,
)
from batchrun.core.request.column_roles import Roles
from batchrun.core.request.conversation import TURNS
from batchrun.core.request.template import Context, DefectError, Rendered, Templates, plain
from batchrun.core.request.turns import turns_of
from batchrun.core.settings.parameters import names_of
from batchrun.core.settings.resolve import Settings
from batchrun.core.text.template_syntax import is_template
from batchrun.errors import RowError, UsageError
from batchrun.records import JsonObject

Maker = Callable[[Context], JsonObject | None]
"""Makes one message for a row, or None where there is nothing to say in it."""

MESSAGES = "messages"
_SIMPLE = frozenset({str, float, bool})
_INSTRUCTIONS = frozenset({"system", "developer"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What the settings make of a row, compiled and not yet compared with the input.

    ``in_messages`` are the names that templates of messages use. ``send``, ``identity`` and
    ``turns`` are the settings ``input.send``, ``input.id`` and ``request.turns``, ``repeat`` is how
    often a row is sent. ``repeating`` has the messages, by their place, and the parameters that
    differ between the repeats of a row.
    """

    templates: Templates
    messages: tuple[Maker, ...]
    params: tuple[tuple[str, Rendered], ...]
    attachments: tuple[Attachment, ...]
    in_messages: frozenset[str]
    send: str | tuple[str, ...] | None = None
    identity: str | None = None
    turns: str | None = None
    repeat: int = 1
    repeating: frozenset[int | str] = frozenset()

    @property
    def only_repeats(self) -> bool:
        """Whether all that it says is how often a row is sent."""
        named = self.send is not None or self.identity is not None or self.turns is not None
        return not self.renders and not named

    @property
    def renders(self) -> bool:
        """Whether there is anything to render: a plan may only say what columns are for."""
        return bool(self.messages or self.params or self.turns is not None)

    def shaper(
        self, rows: Iterable[Mapping[str, Any]], read: Read, roles: Roles | None = None
    ) -> Shaper:
        """The plan for an input whose columns ``rows`` tell; ``read`` reads a local file. Without
        ``roles`` rows are told apart by the first two reading rules.

        Raises ``UsageError`` for a column that is not there; see ``columns.find``.
        """
        templates = self.templates

        def called(name: str, part: str) -> bool:
            return re.search(rf"\.\s*{re.escape(part)}\s*\(", templates.sources[name]) is not None

        named = {item.column: f"request.{item.kind}" for item in self.attachments}
        if self.turns is not None:
            named[self.turns] = "request.turns (--turns)"
        if roles is not None:
            named |= {} if self.identity is None else {self.identity: "input.id (--id)"}
            if isinstance(self.send, tuple):
                named |= dict.fromkeys(self.send, "input.send (--send)")
        found = columns.find(
            templates.paths,
            named,
            rows,
            offered=lambda name: name == repeats.NAME or templates.offers(name),
            called=called,
        )
        users = [user for path, user in templates.paths.items() if path[0] == repeats.NAME]
        if self.repeat > 1 and users and repeats.NAME in found:
            message = (
                f"{users[0]} uses {repeats.NAME!r}, which with --repeat is the number of the "
                "repeat, and the input has a column of that name. Rename the column"
            )
            raise UsageError(message)
        templates.shadow(found)
        return Shaper(self, found, read, roles)


def plan(settings: Settings) -> Plan | None:
    """The plan of the settings; None where they hold no template.

    Raises ``UsageError`` for a template that does not compile.
    """
    if not settings.is_planned:
        return None
    templates = Templates()
    messages = tuple(_maker(templates, name, message) for name, message in _messages(settings))
    in_messages = frozenset(path[0] for path in templates.paths)
    templated = settings.templated()
    params = tuple(
        (key, templates.tree(_place(key), value, typed=True)) for key, value in templated.items()
    )
    images = [Attachment("image", column) for column in settings.image]
    files = [Attachment("file", column) for column in settings.file]
    repeating: set[int | str] = {
        key for key in templated if templates.use(repeats.NAME, _place(key))
    }
    repeating.update(
        number
        for number, (name, _) in enumerate(_messages(settings))
        if templates.use(repeats.NAME, name)
    )
    return Plan(
        templates,
        messages,
        params,
        (*images, *files),
        in_messages,
        settings.send,
        settings.identity,
        settings.turns,
        settings.repeat,
        frozenset(repeating),
    )


def _place(key: str) -> str:
    return "request.model" if key == "model" else f"request.params.{key}"


def _messages(settings: Settings) -> Iterator[tuple[str, JsonObject]]:
    """The messages that the settings make, in their order, and the place of each in them."""
    if settings.system is not None:
        yield "request.system", {"role": "system", "content": settings.system}
    if settings.prompt is not None:
        yield "request.prompt", {"role": "user", "content": settings.prompt}
    for place, message in enumerate(settings.messages):
        yield f"request.messages[{place}]", dict(message)


def _maker(templates: Templates, name: str, message: JsonObject) -> Maker:
    content = message.get("content")
    if isinstance(content, str):
        render = templates.text(name, content)
    else:
        render = templates.tree(name, content, typed=False)
    if not is_template(content):
        # Rendered here all the same: the language drops comments, and a newline at the end.
        constant = {**message, "content": render({})} if "content" in message else message
        return lambda _: constant
    optional = message["role"] in _INSTRUCTIONS

    def make(context: Context) -> JsonObject | None:
        made = render(context)
        if optional and isinstance(made, str) and not made.strip():
            return None
        return {**message, "content": made}

    return make


class Shaper:
    """Tells a row's fields apart as its ``roles`` do, and renders what the settings say.

    Made by ``Plan.shaper``. ``needs`` are the columns that have to be among the fields; ``data``
    those that are data in a row without messages, where there are no ``roles``.
    """

    def __init__(
        self, plan: Plan, found: Mapping[str, str], read: Read, roles: Roles | None = None
    ) -> None:
        self._plan = plan
        self.roles = roles
        self._read = read
        self._strict = False
        as_cells = roles is not None and roles.texts_alone
        self._params = tuple(
            (key, names_of(key), _as_cell(key, render) if as_cells else render)
            for key, render in plan.params
        )
        used = {path[0] for path in plan.templates.paths}
        self._shows_repeat = repeats.NAME in used and repeats.NAME not in found
        self._repeats = range(plan.repeat if plan.repeating else 1)
        self._sources = tuple((name, found[name]) for name in sorted(used) if name in found)
        self.needs = frozenset(found.values()) | (roles.needs if roles else frozenset())
        in_messages = {found[name] for name in plan.in_messages if name in found}
        attached_columns = {attachment.column for attachment in plan.attachments}
        self.data = frozenset((in_messages | attached_columns) - {"custom_id", "messages"})
        self._turns = plan.turns
        self.reserved = frozenset() if plan.turns is None else frozenset({MESSAGES})
        """Columns of the results that a carried one may not be called like."""

    def strict(self) -> Shaper:
        """The same, but raising ``DefectError`` for a template that no row can render."""
        changed = copy.copy(self)
        changed._strict = True  # noqa: SLF001 - a copy of its own
        return changed

    def __call__(self, fields: JsonObject) -> Split:
        """The row, told apart and rendered. A row that cannot be rendered has a ``problem``."""
        if self._turns is None:
            return self._made(fields)
        return self._with_turns(self._made(fields), fields)

    def _made(self, fields: JsonObject) -> Split:
        """The row without the user's turns."""
        apart = self.apart(fields)
        if apart.body is None:
            return apart
        if len(self._repeats) > 1:
            return self._each(apart, apart.body, fields)
        try:
            rendered, added = self._rendered(apart.body, fields, self._context(fields))
        except (RowError, DefectError) as error:
            if self._strict and isinstance(error, DefectError):
                raise
            return Split(apart.custom_id, None, apart.carried, str(error))
        return Split(apart.custom_id, rendered | apart.body, apart.carried, None, added)

    def _each(self, apart: Split, body: JsonObject, fields: JsonObject) -> Split:
        """A row whose repeats differ: rendered for each of them, what is the same only once."""
        each: list[JsonObject | str] = []
        first: JsonObject | None = None
        size = 0
        for repeat in self._repeats:
            try:
                context = {**self._context(fields), repeats.NAME: repeat}
                rendered, added = self._rendered(body, fields, context, first)
            except (RowError, DefectError) as error:
                if self._strict and isinstance(error, DefectError):
                    raise
                each.append(str(error))
                continue
            first = rendered if first is None else first
            size = max(size, added)
            each.append(rendered | body)
        return Split(apart.custom_id, repeats.BodyOfEach(tuple(each)), apart.carried, None, size)

    def _with_turns(self, apart: Split, fields: JsonObject) -> Split:
        """A row whose body has the user's turns as well."""
        assert self._turns is not None
        if apart.body is None:
            return apart
        try:
            turns = turns_of(fields.get(self._turns), self._turns)
        except RowError as error:
            return Split(apart.custom_id, None, apart.carried, str(error))
        return apart._replace(body=repeats.with_each(apart.body, {TURNS: turns}))

    def apart(self, fields: JsonObject) -> Split:
        """The row told apart, without rendering anything: a data row's body has no messages."""
        bare = self._turns is not None and not self._plan.messages
        if bare and kind_of(fields) == "data row":
            fields = {**fields, MESSAGES: []}  # what is said first is the first turn
        if self.roles is not None:
            return self.roles(fields)
        if not self._plan.messages or has_messages(fields, self.data):
            return split(fields)
        return split_data(fields, self.data)

    def _rendered(
        self,
        body: JsonObject,
        fields: JsonObject,
        context: Context,
        first: JsonObject | None = None,
    ) -> tuple[JsonObject, int]:
        """What the settings add to a row's own body, and the bytes of files in it. ``first`` is
        what they add for another repeat: what is the same for all is taken from it.
        """
        made: JsonObject = {}
        repeating = self._plan.repeating
        for key, names, render in self._params:
            if first is not None and key not in repeating:
                if key in first:
                    made[key] = first[key]
            elif names.isdisjoint(body) and (value := render(context)) is not None:
                made[key] = value
        if "messages" in body:
            return made, 0
        if first is not None and repeating.isdisjoint(range(len(self._plan.messages))):
            return made | {"messages": first["messages"]}, 0
        messages = [said for make in self._plan.messages if (said := make(context))]
        added_bytes = 0
        if self._plan.attachments:
            parts = list(self._parts(fields))
            messages, added_bytes = attached(messages, parts), size_of(parts)
        if _asks_nothing(messages):
            message = "the prompt is empty: every column that it shows is null or blank in this row"
            raise RowError(message)
        made["messages"] = messages
        return made, added_bytes

    def _context(self, fields: JsonObject) -> Context:
        context: JsonObject = {repeats.NAME: 0} if self._shows_repeat else {}
        for name, column in self._sources:
            value = fields.get(column)
            if value is not None:
                kind = value.__class__
                simple = kind in _SIMPLE or (kind is int and INT64_MIN <= value <= INT64_MAX)
                context[name] = value if simple else plain(value, column)
        return context

    def _parts(self, fields: JsonObject) -> Iterator[JsonObject]:
        size = 0
        for attachment in self._plan.attachments:
            for part in attachment.parts(fields.get(attachment.column), self._read):
                size += size_of([part])
                if size > BODY_BYTES_MAX:
                    message = f"its images and files are more than {BODY_BYTES_MAX:,} bytes"
                    raise RowError(message)
                yield part


def _as_cell(key: str, render: Rendered) -> Rendered:
    """A parameter by template over a table that holds text alone: the text becomes the JSON value
    that a column sent under this name would be.
    """

    def rendered(context: Context) -> Any:
        value = render(context)
        if not isinstance(value, str):
            return value
        try:
            return cells.text(key, value)
        except ValueError as error:
            message = f"{_place(key)}: {str(error).removeprefix(f'column {key!r} ')}"
            raise RowError(message) from None

    return rendered


def _asks_nothing(messages: Sequence[JsonObject]) -> bool:
    """Whether the user's last message is blank."""
    for message in reversed(messages):
        if message["role"] == "user":
            content = message["content"]
            return isinstance(content, str) and not content.strip()
    return False
