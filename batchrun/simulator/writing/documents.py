"""JSON documents that fit a JSON Schema, as a model under structured output writes them.

They follow the keywords that schemas for structured output are made of: types, `enum`, `const`,
`properties`, `required`, `items`, `prefixItems`, bounds of numbers, texts and lists, `$ref` inside
the schema, `anyOf`, `oneOf` and `allOf`. A `pattern`, or what is said by `if` or `not`, is not
minded: such a document may not fit.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from batchrun.simulator.writing.draws import Chance

DEPTH_MAX = 6
ITEMS_MORE = 2
STEPS_MAX = 12  # references to references; a loop has no end
VALUES_MAX = 2000
"""A schema that asks for more, as one that needs itself twice does, gets null there."""
# Among them what readers of JSON stumble over.
_WORDS = (
    *"amber basin cedar delta ember fjord grove haven inlet jetty knoll ledge marsh".split(),
    *("Zürich", '"said"', "C:\\new", "two\nlines", "北京市的路", "🙂👩\u200d👧🙂"),
)

_encode = msgspec.json.Encoder().encode


def write_document(schema: object, chance: Chance) -> str:
    """A document as JSON text."""
    writer = _Writer(schema, chance)
    return _encode(writer.value(schema, 0)).decode()


class _Writer:
    def __init__(self, root: object, chance: Chance) -> None:
        self._root = root
        self._chance = chance
        self._values = 0

    def value(self, schema: object, depth: int) -> Any:
        """A value that fits a schema; `depth` is how deep it stands in the document."""
        self._values += 1
        if self._values > VALUES_MAX:
            return None
        found = self._flat(schema, depth)
        if "const" in found:
            return found["const"]
        if isinstance(listed := found.get("enum"), list) and listed:
            return listed[self._chance.below(len(listed))]
        match self._kind(found, depth):
            case "object":
                return self._object(found, depth)
            case "array":
                return self._array(found, depth)
            case "integer":
                return self._whole(found)
            case "number":
                low, high = self._bounds(found)
                return low + (high - low) * self._chance.below(1001) / 1000
            case "boolean":
                return self._chance.below(2) == 1
            case "null":
                return None
            case _:
                return self._text(found)

    def _flat(self, schema: object, depth: int, steps: int = STEPS_MAX) -> dict[str, Any]:
        """The schema with what it refers to, and one of its alternatives, laid into it."""
        found: dict[str, Any] = dict(schema) if isinstance(schema, Mapping) else {}
        for left in range(steps, 0, -1):
            if isinstance(reference := found.pop("$ref", None), str):
                found = {**self._referred(reference), **found}
            elif isinstance(options := found.pop("anyOf", found.pop("oneOf", None)), list):
                # Deep down the last one: that is where `null` and leaves usually stand.
                place = self._chance.below(len(options)) if depth < DEPTH_MAX else -1
                chosen = options[place] if options else {}
                found = {**found, **(chosen if isinstance(chosen, Mapping) else {})}
            elif isinstance(parts := found.pop("allOf", None), list):
                for part in parts:
                    found = _joined(found, self._flat(part, depth, left - 1))
            else:
                return found
        return found

    def _referred(self, reference: str) -> Mapping[str, Any]:
        value: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if isinstance(value, Mapping) else {}

    def _kind(self, schema: Mapping[str, Any], depth: int) -> object:
        kind = schema.get("type")
        if isinstance(kind, list) and kind:
            if depth >= DEPTH_MAX and "null" in kind:
                return "null"
            return kind[self._chance.below(len(kind))]
        if kind is None:
            for key, meant in (("properties", "object"), ("items", "array"), ("minimum", "number")):
                if key in schema:
                    return meant
        return kind

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties, required = schema.get("properties"), schema.get("required")
        known = properties if isinstance(properties, Mapping) else {}
        needed = required if isinstance(required, list) else []
        names = [name for name in known if depth < DEPTH_MAX or name in needed]
        names += [name for name in needed if name not in known]
        if depth > 4 * DEPTH_MAX:
            return {}
        return {name: self.value(known.get(name), depth + 1) for name in names}

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        first, items = schema.get("prefixItems"), schema.get("items")
        begun = first if isinstance(first, list) else []
        low = _count(schema, "minItems", 0)
        high = _count(schema, "maxItems", max(low, 1) + ITEMS_MORE)
        count = low + self._chance.below(high - low + 1) if depth < DEPTH_MAX else low
        count = max(count, len(begun)) if items is not False else len(begun)
        if depth > 4 * DEPTH_MAX:
            return []
        return [
            self.value(begun[place] if place < len(begun) else items, depth + 1)
            for place in range(count)
        ]

    def _bounds(self, schema: Mapping[str, Any]) -> tuple[float, float]:
        low, high = schema.get("minimum"), schema.get("maximum")
        if low is None:
            low = schema.get("exclusiveMinimum")
            low = None if low is None else low + 1
        if high is None:
            high = schema.get("exclusiveMaximum")
            high = None if high is None else high - 1
        if low is None:
            low = 0 if high is None else min(0, high)
        return low, low + 100 if high is None else max(low, high)

    def _whole(self, schema: Mapping[str, Any]) -> int:
        low, high = (int(bound) for bound in self._bounds(schema))
        step = schema.get("multipleOf")
        if not isinstance(step, int) or step < 1:
            return low + self._chance.below(high - low + 1)
        first = -(-low // step)
        return step * (first + self._chance.below(max(high // step - first, 0) + 1))

    def _text(self, schema: Mapping[str, Any]) -> str:
        low = _count(schema, "minLength", 1)
        high = _count(schema, "maxLength", max(low, 40))
        text = " ".join(_WORDS[self._chance.below(len(_WORDS))] for _ in range(1 + low // 4))
        return text[:high]


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two schemas that both hold, as one."""
    both = {**one, **other}
    for key, kind in (("properties", dict), ("required", list)):
        if isinstance(one.get(key), kind) and isinstance(other.get(key), kind):
            both[key] = one[key] | other[key] if kind is dict else [*one[key], *other[key]]
    return both


def _count(schema: Mapping[str, Any], key: str, otherwise: int) -> int:
    value = schema.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise
