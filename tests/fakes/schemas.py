"""Values that an OpenAPI document allows, and values that it does not, as hypothesis strategies."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

Schema = Mapping[str, Any]
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
# what has broken parsers, paths, queries and shells before
_PATHS = ["", " ", ".", "..", "../../etc/passwd", "%00", "\0", "a\nb", "<script>", "a" * 300]
_SNIPPETS = ["'; DROP TABLE calls; --", "${HOME}", "$(id)", "{{7*7}}", "%s%n", "null", "acme/tiny:raw"]
_NUMBERS_AND_LETTERS = ["-1", "1e999", "9" * 400, "é" * 90, "🦙", "\ud800"]
NASTY = st.sampled_from([*_PATHS, *_SNIPPETS, *_NUMBERS_AND_LETTERS])


def allowed(schema: Schema, document: Schema, known: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Values that the schema describes; a property in `known` is more often one that means something."""
    if "$ref" in schema:
        target: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return st.deferred(lambda: allowed(target, document, known))
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return st.one_of([allowed(option, document, known) for option in schema[choice]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    made = {"object": _objects, "array": _arrays}.get(schema.get("type", ""))
    return made(schema, document, known) if made else _scalars(schema)


def nearly(schema: Schema, document: Schema, known: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Mostly what the schema describes; sometimes with one part that is anything, and sometimes only anything."""
    good = allowed(schema, document, known)
    return st.one_of(good, good, good.flatmap(_spoilt), ANYTHING)


def _spoilt(value: Any) -> st.SearchStrategy[Any]:
    if not isinstance(value, dict) or not value:
        return ANYTHING
    name = st.sampled_from(sorted(value)) | st.text(max_size=8)
    return st.builds(lambda field, bad: {**value, field: bad}, name, ANYTHING | NASTY)


def _objects(schema: Schema, document: Schema, known: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    required, optional = {}, {}
    for name, part in schema.get("properties", {}).items():
        made = allowed(part, document, known)
        made = known[name] | made if name in known else made
        (required if name in schema.get("required", ()) else optional)[name] = made
    extra = schema.get("additionalProperties")
    if not required and not optional:
        values = allowed(extra, document, known) if isinstance(extra, dict) else ANYTHING
        keys = known.get("*key", st.text(max_size=8)) | st.text(max_size=8)
        return st.dictionaries(keys, values, max_size=3)
    return st.fixed_dictionaries(required, optional=optional)


def _arrays(schema: Schema, document: Schema, known: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    most = min(int(schema.get("maxItems", 3)), 3)
    items = schema.get("items") or {}
    return st.lists(allowed(items, document, known), min_size=min(int(schema.get("minItems", 0)), most), max_size=most)


def _scalars(schema: Schema) -> st.SearchStrategy[Any]:
    kind = schema.get("type")
    if kind == "string":
        most = min(int(schema.get("maxLength", 40)), 40)
        least = min(int(schema.get("minLength", 0)), most)
        return st.text(min_size=least, max_size=most) | NASTY
    if kind == "boolean":
        return st.booleans()
    if kind == "null":
        return st.none()
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        if kind == "integer":
            return st.integers(low, high)
        return st.floats(low, high, allow_nan=False)
    return ANYTHING
