"""How a command line names one of several dataclasses: `rotary`, `rotary:fraction=0.5`, `randomised:inner=alibi`."""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from typing import Any

from lm.strict import ConfigError, check_types, nearest

if typing.TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

TRUTH = types.MappingProxyType({"true": True, "false": False})


def alternatives() -> ConstructorRegistry:
    """Return the rules by which the parser chooses among dataclasses, and reads booleans in either case."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        several = info.type_origin is tuple and typing.get_args(info.type)[1:] == (...,)
        choices = union(typing.get_args(info.type)[0] if several else info.type)
        if not choices:
            return None
        metavar = "|".join(spelling(c) for c in choices) + "[:FIELD=VALUE,...]"
        if several:
            return PrimitiveConstructorSpec(
                nargs="*",
                metavar=f"[{metavar} ...]",
                instance_from_str=lambda words: tuple(choose(word, choices) for word in words),
                is_instance=lambda value: isinstance(value, tuple),
                str_from_instance=lambda value: [show(each) for each in value],
            )
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda words: choose(words[0], choices),
            is_instance=lambda value: isinstance(value, choices),
            str_from_instance=lambda value: [show(value)],
        )

    def truth(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[bool] | None:
        if info.type is not bool:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="true|false",
            instance_from_str=lambda words: TRUTH[words[0].lower()],
            is_instance=lambda value: isinstance(value, bool),
            str_from_instance=lambda value: [str(value).lower()],
            choices=("true", "false", "True", "False"),
        )

    registry = ConstructorRegistry()
    registry.primitive_rule(rule)
    registry.primitive_rule(truth)
    return registry


def union(hint: Any) -> tuple[type, ...]:
    """Return the dataclasses that a type hint is a union of, and None's type where it is one of them; or nothing."""
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()
    kinds = [choice for choice in choices if choice is not types.NoneType]
    return choices if kinds and all(map(dataclasses.is_dataclass, kinds)) else ()


def spelling(kind: type) -> str:
    """Return how a command line names a dataclass: its name in lower case, without the Loss of an objective; `none`."""
    return "none" if kind is types.NoneType else kind.__name__.removesuffix("Loss").lower()


def choose(text: str, choices: tuple[type, ...]) -> Any:
    """Build the dataclass that a text such as `rotary:fraction=0.5` spells."""
    name, _, settings = text.partition(":")
    kinds = {spelling(kind): kind for kind in choices}
    plain = name.lower().replace("_", "")
    if plain not in kinds:
        raise ConfigError(f"{name!r} is none of {', '.join(kinds)}{nearest(name, kinds)}")
    kind = kinds[plain]
    hints, values = typing.get_type_hints(kind), {}
    for setting in filter(None, settings.split(",")):
        field, _, value = setting.partition("=")
        if field not in hints:
            raise ConfigError(f"{name} has no field {field!r}{nearest(field, hints)} (fields: {', '.join(hints)})")
        inner = tuple(filter(dataclasses.is_dataclass, typing.get_args(hints[field])))
        values[field] = choose(value, inner) if inner and value != "None" else literal(value)
    check_types(kind, values, name)
    return kind(**values)


def literal(text: str) -> Any:
    """Return the number, boolean or None that a text spells, or the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def show(value: Any) -> str:
    """Return the text from which `choose` builds this dataclass, defaults left out."""
    if value is None:
        return "none"
    default = type(value)()
    settings = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    changed = [
        f"{name}={show(v) if dataclasses.is_dataclass(v) else v}"
        for name, v in settings.items()
        if v != getattr(default, name)
    ]
    return ":".join(filter(None, [spelling(type(value)), ",".join(changed)]))
