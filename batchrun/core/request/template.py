"""Templates over the columns of a row: compiled once, rendered per row.

The language is Jinja's, as MiniJinja speaks it. What it is given and what it prints is settled
here, in one place:

- A template is text from the settings. Data goes in as values and is never compiled, so braces and
  template syntax in a row stay what they are.
- Null is *undefined* to the library (``Context`` leaves it out): it prints as nothing, also through
  filters and ``~``, is false, and what is looked up in it is null again. Columns that do not
  exist are found before the first row, by ``Template.paths``; so the leniency hides no typo.
- Data chooses no amounts without bounds: a rendering has so many steps (``STEPS_MAX``), and an
  amount that comes from a column (``indent(n)``, ``batch(n)``) or a format that does is limited.
- A list or an object prints as JSON, an empty list as nothing (that is also what a slice of
  null is). Bytes, and methods that were not called, cannot be printed.

Nothing is escaped: prompts are not HTML.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from batchrun.core.text.template_syntax import is_template
from batchrun.errors import RowError, UsageError

if TYPE_CHECKING:
    from minijinja import Environment, TemplateError

Context = Mapping[str, Any]
"""The values of a row by the names templates use. Null is left out."""

Rendered = Callable[[Context], Any]
"""Makes a value for one row. Raises ``RowError`` where the row's data does not allow it."""

_EXPRESSION = re.compile(r"\s*\{\{[-+]?(.*?)[-+]?\}\}\s*", re.DOTALL)
_DEFECTS = frozenset({"UnknownFilter", "UnknownTest", "UnknownFunction", "TemplateNotFound"})
_INT_MAX = 2**126  # larger ones would become floats inside the library
STEPS_MAX = 10_000_000
"""The instructions of one rendering, about a second; then it fails."""
AMOUNT_MAX = 10_000
"""Larger amounts in ``_AMOUNTS`` would make the library ask for memory until the process dies."""
_AMOUNTS = ("indent", "batch", "slice", "format")
_WIDE = re.compile(r"%[^%a-zA-Z]*\d{5}")
_encode = msgspec.json.Encoder().encode


class DefectError(UsageError):
    """A template cannot be rendered whatever the row holds: it names a filter, a test, a function
    or another template that does not exist.
    """


class Opaque:
    """Stands in a context for a nested value that cannot be shown."""


class Templates:
    """The templates of a run, compiled.

    ``paths`` collects what they look up: the dotted name, as a tuple, to the template that uses it
    first. Raises ``UsageError`` for a template that does not compile, naming it and the line.
    """

    def __init__(self) -> None:
        from minijinja import Environment

        self._environment = Environment(undefined_behavior="chainable", finalizer=_shown)
        # Those of the library escape for HTML, and tell null from undefined.
        self._environment.add_filter("tojson", _to_json)
        self._environment.add_filter("join", _join)
        self._environment.add_test("none", lambda value: value is None)
        self._environment.fuel = STEPS_MAX
        library = Environment(undefined_behavior="chainable")
        for name in _AMOUNTS:
            self._environment.add_filter(name, _bounded(name, library))
        # It would print the whole row, and the library's inside.
        self._environment.remove_global("debug")
        self._count = 0
        self.paths: dict[tuple[str, ...], str] = {}
        self.sources: dict[str, str] = {}
        self.whole: set[str] = set()
        """Names that are used as a whole, not only for a key inside them."""
        self._used: dict[str, frozenset[str]] = {}

    def text(self, name: str, source: str) -> Rendered:
        """A template that makes text."""
        label = f"t{self._count}"
        self._count += 1
        environment = self._environment
        with _Compiling(name):
            environment.add_template(label, source)
            used = environment.undeclared_variables_in_template(label)
            nested = environment.undeclared_variables_in_template(label, nested=True)
        self.sources[name] = source
        self.whole |= used & nested
        for path in sorted(used | nested):
            self.paths.setdefault(tuple(path.split(".")), name)
        self._used[name] = frozenset(path.partition(".")[0] for path in used | nested)
        return _guarded(name, environment.render_template, label)

    def value(self, name: str, source: str) -> Rendered:
        """A template that makes a value: with its own type where the template is one expression
        and nothing else, else text. Null is None.
        """
        render = self.text(name, source)
        whole = _EXPRESSION.fullmatch(source)
        if whole is None or not self._is_expression(whole[1]):
            return render
        evaluate = _guarded(name, self._environment.eval_expr, whole[1])
        return lambda context: _sound(evaluate(context), name)

    def _is_expression(self, text: str) -> bool:
        """Whether text is one expression: ``a }} and {{ b`` is not."""
        from minijinja import TemplateError

        try:
            self._environment.eval_expr(text)
        except TemplateError as error:
            return bool(error.kind != "SyntaxError")
        except Exception:  # noqa: BLE001 - it was parsed, and met no row
            return True
        return True

    def tree(self, name: str, value: object, *, typed: bool) -> Rendered:
        """Every string of a JSON value as a template; keys are left alone.

        ``typed`` lets single expressions make values; an object's key whose value is null then is
        left out.
        """
        if not is_template(value):
            return lambda _: value
        if isinstance(value, str):
            return self.value(name, value) if typed else self.text(name, value)
        if isinstance(value, Mapping):
            fields = [
                (key, self.tree(f"{name}.{key}", item, typed=typed)) for key, item in value.items()
            ]
            constant = {key for key, item in value.items() if item is None}
            return lambda context: {
                key: made
                for key, render in fields
                if (made := render(context)) is not None or key in constant
            }
        assert isinstance(value, list)
        items = [
            self.tree(f"{name}[{place}]", item, typed=typed) for place, item in enumerate(value)
        ]
        return lambda context: [render(context) for render in items]

    def use(self, name: str, place: str) -> bool:
        """Whether a template in this place of the settings, or below it, uses a name."""
        within = (f"{place}.", f"{place}[")
        return any(
            name in names and (other == place or other.startswith(within))
            for other, names in self._used.items()
        )

    def shadow(self, names: Iterable[str]) -> None:
        """Columns of these names hide the functions of the same name, null or not."""
        for name in names:
            if name in self._environment.globals:
                self._environment.remove_global(name)

    def offers(self, name: str) -> bool:
        """Whether the language itself has this name: a function, or what a macro is given."""
        return name in self._environment.globals or name in ("caller", "super")


def plain(value: object, where: str) -> Any:
    """A row's value as a template may have it. Raises ``RowError`` for what cannot be shown."""
    if isinstance(value, bytes):
        message = f"column {where!r} holds bytes, which a template cannot show"
        raise RowError(message)
    if isinstance(value, RowError):
        raise value
    return _nested(value)


def _nested(value: object) -> Any:
    """Keys with null are left out, so that they are undefined too."""
    if isinstance(value, dict):
        return {key: _nested(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_nested(item) for item in value]
    if isinstance(value, (bytes, RowError)):
        return Opaque()
    if type(value) is int and not -_INT_MAX < value < _INT_MAX:
        return str(value)
    return value


def _sound(value: Any, name: str) -> Any:
    """The value of an expression as JSON has it. Raises ``RowError`` for what JSON has not."""
    if isinstance(value, str):
        return str(value)  # text marked as safe in HTML is a class of its own
    try:
        _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"{name}: its value cannot be written as JSON: {error}"
        raise RowError(message) from None
    return value


def _shown(value: object) -> object:
    """What ``{{ value }}`` prints; the library's finalizer. Raises ``TypeError``."""
    if isinstance(value, (str, int, float)):
        return value
    if value is None or value == []:
        return ""
    if isinstance(value, (dict, list, tuple)):
        return _to_json(value)
    message = (
        "bytes cannot be shown"
        if isinstance(value, (bytes, Opaque))
        else f"a {type(value).__name__} cannot be shown"
    )
    raise TypeError(message)


def _to_json(value: object, indent: int | None = None) -> str:
    """Compact JSON with every character as it is; with ``indent``, over several lines."""
    _require_bounds("tojson", [indent])
    try:
        text = _encode(value)
    except TypeError:
        message = "a list or an object that holds bytes cannot be shown"
        raise TypeError(message) from None
    return (msgspec.json.format(text, indent=indent) if indent else text).decode()


def _join(values: Iterable[Any] | None, separator: str = "", attribute: str | None = None) -> str:
    """The items as text, null as nothing."""
    items: Iterator[Any] = iter(values or ())
    if attribute is not None:
        items = (item.get(attribute) if isinstance(item, dict) else None for item in items)
    return separator.join(str(_shown(item)) for item in items)


def _bounded(name: str, library: Environment) -> Callable[..., Any]:
    """A filter of the library that refuses amounts above ``AMOUNT_MAX``."""

    def bounded(value: object, *given: object, **named: object) -> Any:
        amounts = (*given, *named.values()) if name != "format" else ()
        _require_bounds(name, amounts)
        if name == "format" and isinstance(value, str) and _WIDE.search(value):
            _require_bounds(name, [AMOUNT_MAX + 1])
        words = [f"a{place}" for place in range(len(given))] + [f"{key}={key}" for key in named]
        context = {f"a{place}": each for place, each in enumerate(given)} | named
        if value is not None:  # null is undefined, as everywhere
            context["value"] = value
        return library.eval_expr(f"value | {name}({', '.join(words)})", **context)

    return bounded


def _require_bounds(name: str, amounts: Iterable[object]) -> None:
    if any(isinstance(amount, int) and amount > AMOUNT_MAX for amount in amounts):
        message = f"{name} takes amounts up to {AMOUNT_MAX:,}"
        raise ValueError(message)


class _Compiling:
    """Turns what the library raises about a template into ``UsageError``."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        from minijinja import TemplateError

        if isinstance(error, TemplateError):
            message = f"{_place(self._name, error)}: not a valid template: {_reason(error)}"
            raise UsageError(message) from None
        if error is not None and _is_panic(error):
            message = f"{self._name}: not a valid template: {error}"
            raise UsageError(message) from None


def _guarded(name: str, call: Callable[..., Any], what: str) -> Rendered:
    """``call(what)`` over a context, with a row's failure as ``RowError``, and a template's own as
    ``DefectError``.
    """
    from minijinja import TemplateError

    def guarded(context: Context) -> Any:
        try:
            return call(what, **context)
        except TemplateError as error:
            message = f"{_place(name, error)}: cannot be rendered: {_reason(error)}"
            if error.kind in _DEFECTS:
                raise DefectError(message) from None
            raise RowError(message) from None
        except BaseException as error:
            if not isinstance(error, Exception) and not _is_panic(error):
                raise
            message = f"{name}: cannot be rendered: {error}"
            raise RowError(message) from None

    return guarded


def _is_panic(error: BaseException) -> bool:
    """A panic inside the library is no ``Exception``, and its class cannot be imported."""
    return type(error).__name__ == "PanicException"


def _place(name: str, error: TemplateError) -> str:
    return f"{name}, line {error.line}" if error.line else name


def _reason(error: TemplateError) -> str:
    return error.detail or error.message
