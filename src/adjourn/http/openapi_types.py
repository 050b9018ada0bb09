"""JSON Schema of types that routes read and write themselves. msgspec's own knows no default that is JSON already."""

from __future__ import annotations

import inspect as python
from collections.abc import Iterable
from typing import Any, cast

from litestar.openapi.spec import Reference, Schema
from msgspec import inspect

REF = "#/components/schemas/"

Made = dict[str, Any]


def components(kinds: Iterable[type]) -> dict[str, Schema]:
    """By the names of the types, those that are in their fields included. The framework writes them as they are."""
    found: dict[str, Made] = {}
    for kind in kinds:
        _of(inspect.type_info(kind), found)
    return cast("dict[str, Schema]", found)


def reference(kind: type) -> Reference:
    return Reference(ref=f"{REF}{kind.__name__}")


def fields(kind: type) -> dict[str, Schema]:
    """Of a type whose fields are an address's parameters."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return cast("dict[str, Schema]", {field.encode_name: _field(field, {}) for field in info.fields})


def _of(info: inspect.Type, found: dict[str, Made]) -> Made:
    if isinstance(info, inspect.StructType):
        return _struct(info, found)
    if isinstance(info, inspect.UnionType):
        return {"anyOf": [_of(each, found) for each in info.types]}
    if isinstance(info, inspect.LiteralType):
        return {"type": "string", "enum": list(info.values)}
    if isinstance(info, inspect.ListType | inspect.VarTupleType):
        return {"type": "array", "items": _of(info.item_type, found), **_bounds(info, "Items")}
    if isinstance(info, inspect.DictType):
        return {"type": "object", "additionalProperties": _of(info.value_type, found)}
    if isinstance(info, inspect.StrType):
        return {"type": "string", **_bounds(info, "Length")}
    if isinstance(info, inspect.IntType):
        range_of = {"minimum": info.ge, "maximum": info.le}
        return {"type": "integer", **{name: value for name, value in range_of.items() if value is not None}}
    return dict(_PLAIN.get(type(info), {}))  # the rest may be any JSON


_PLAIN: dict[type, Made] = {
    inspect.BoolType: {"type": "boolean"},
    inspect.NoneType: {"type": "null"},
    inspect.DecimalType: {"type": ["string", "number"], "description": "Decimal, exact"},
    inspect.DateTimeType: {"type": "string", "format": "date-time"},
}


def _struct(info: inspect.StructType, found: dict[str, Made]) -> Made:
    name = info.cls.__name__
    if name not in found:
        found[name] = {}  # for what refers to itself
        tag = {info.tag_field: {"type": "string", "enum": [info.tag]}} if info.tag_field else {}
        found[name] = {
            "title": name,
            "type": "object",
            "description": " ".join((python.getdoc(info.cls) or "").split()),
            "required": [*tag, *(field.encode_name for field in info.fields if field.required)],
            "properties": {**tag, **{field.encode_name: _field(field, found) for field in info.fields}},
            **({"additionalProperties": False} if info.forbid_unknown_fields else {}),
        }
    return {"$ref": f"{REF}{name}"}


def _field(field: inspect.Field, found: dict[str, Made]) -> Made:
    schema = _of(field.type, found)
    if isinstance(field.default, bool | int | str) and "$ref" not in schema:
        schema["default"] = field.default
    return schema


def _bounds(info: inspect.StrType | inspect.ListType | inspect.VarTupleType, what: str) -> Made:
    bounds = {f"min{what}": info.min_length, f"max{what}": info.max_length}
    return {name: value for name, value in bounds.items() if value is not None}
