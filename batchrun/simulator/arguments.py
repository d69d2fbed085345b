"""Arguments of a simulated tool call: a JSON value that fits the tool's schema.

Read are `type`, `properties`, `required`, `items`, `enum`, `const`, `anyOf`, `oneOf`, `allOf`,
references within the schema, and the bounds of numbers, texts and arrays. Other keywords, such as
`pattern`, are not: a model keeps to those no better where nothing makes it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from batchrun.simulator.draws import Chance

DEPTH_OPTIONAL = 6
"""From this depth on, what may be left out is."""
DEPTH_MAX = 24
VALUES_MAX = 4000
"""A schema that asks for more, as one that needs itself does, gets null there."""
NUMBER_MAX = 1000
ITEMS_MAX = 3
TEXTS = ("Zürich", "left", 'a "quoted" word', "2 lines:\nsecond", "北京", "C:\\tmp", "🙂", "")

_encode = msgspec.json.Encoder().encode


def write_arguments(schema: object, chance: Chance, quote: str) -> str:
    """JSON text that fits the schema of a function's parameters; `{}` where it has none.

    `quote` is one of the texts in it.
    """
    if not isinstance(schema, dict) or not schema:
        return "{}"
    return _encode(_Writer(schema, chance, quote).value(schema, 0)).decode()


class _Writer:
    def __init__(self, root: Mapping[str, Any], chance: Chance, quote: str) -> None:
        self._root = root
        self._chance = chance
        self._texts = (quote, *TEXTS)
        self._values = 0

    def value(self, schema: object, depth: int) -> object:
        """A value for the schema."""
        schema = self._resolved(schema)
        self._values += 1
        if depth > DEPTH_MAX or self._values > VALUES_MAX:
            return None
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return self._one_of(schema["enum"])
        for keyword in ("anyOf", "oneOf"):
            if isinstance(schema.get(keyword), list) and schema[keyword]:
                return self.value(self._alternative(schema[keyword], depth), depth + 1)
        return self._typed(schema, depth)

    def _typed(self, schema: dict[str, Any], depth: int) -> object:
        """A value of the schema's type, of one of them where it has several."""
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list) and kind:
            kind = "null" if "null" in kind and depth >= DEPTH_OPTIONAL else self._one_of(kind)
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer":
                return int(self._number(schema))
            case "number":
                return self._number(schema)
            case "boolean":
                return bool(self._chance.below(2))
            case "null":
                return None
            case _:
                return self._text(schema)

    def _one_of(self, values: list[Any]) -> Any:
        return values[self._chance.below(len(values))]

    def _alternative(self, schemas: list[Any], depth: int) -> object:
        """One of the schemas; the one that ends soonest where the value is deep already."""
        if depth >= DEPTH_OPTIONAL:
            for schema in schemas:
                if self._resolved(schema).get("type") not in ("object", "array", None):
                    return schema
        return self._one_of(schemas)

    def _resolved(self, schema: object, nested: int = 0) -> dict[str, Any]:
        """The schema with its reference followed and its `allOf` put together."""
        self._values += 1
        if nested > DEPTH_MAX or self._values > VALUES_MAX:
            return {}  # it refers to itself without end
        for _ in range(DEPTH_MAX):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                break
            schema = self._referred(schema["$ref"])
        if not isinstance(schema, dict):
            return {}
        parts = schema.get("allOf")
        if isinstance(parts, list):
            whole = {key: value for key, value in schema.items() if key != "allOf"}
            for part in parts:
                for key, value in self._resolved(part, nested + 1).items():
                    before = whole.get(key)
                    if isinstance(before, dict) and isinstance(value, dict):
                        whole[key] = before | value
                    elif isinstance(before, list) and isinstance(value, list):
                        whole[key] = before + value
                    else:
                        whole[key] = value
            return whole
        return schema

    def _referred(self, reference: str) -> object:
        found: object = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, dict) else None
        return found

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, object]:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return {}
        required = schema.get("required")
        needed = required if isinstance(required, list) else []
        return {
            name: self.value(inner, depth + 1)
            for name, inner in properties.items()
            if name in needed or (depth < DEPTH_OPTIONAL and self._chance.below(2))
        }

    def _array(self, schema: dict[str, Any], depth: int) -> list[object]:
        least = _count(schema.get("minItems"), 0)
        most = max(least, _count(schema.get("maxItems"), max(least, ITEMS_MAX)))
        most = min(most, least + ITEMS_MAX)
        size = least if depth >= DEPTH_OPTIONAL else least + self._chance.below(most - least + 1)
        return [self.value(schema.get("items"), depth + 1) for _ in range(size)]

    def _number(self, schema: dict[str, Any]) -> float:
        """A number within the bounds, a whole one where the schema's type says so."""
        whole = schema.get("type") == "integer"
        step = 1 if whole else 0.25
        low = _bound(schema, "minimum", "exclusiveMinimum", step)
        high = _bound(schema, "maximum", "exclusiveMaximum", -step)
        if low is None:
            low = 0 if high is None else min(0, high)
        if high is None or high > low + NUMBER_MAX:
            high = low + NUMBER_MAX
        low = -(-low // 1) if whole else low
        return low + step * self._chance.below(max(1, int((high - low) / step) + 1))

    def _text(self, schema: dict[str, Any]) -> str:
        least = _count(schema.get("minLength"), 0)
        text = self._texts[self._chance.below(len(self._texts))]
        text += "x" * (least - len(text))
        most = schema.get("maxLength")
        return text[:most] if type(most) is int and most >= 0 else text


def _count(value: object, otherwise: int) -> int:
    return value if type(value) is int and 0 <= value <= 1000 else otherwise


def _bound(schema: dict[str, Any], name: str, exclusive: str, step: float) -> float | None:
    """A bound that may be reached, from one that may or may not."""
    found: float | None = None
    for key, change in ((name, 0.0), (exclusive, step)):
        value = schema.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53:
            found = value + change
    return found
