"""Strict configuration: errors that name the nearest valid name, dotted override, exact JSON round trip.

recipe = override(recipe, {"train.steps": 100, "model.depth": 2})
assert from_json(to_json(recipe), kinds) == recipe
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

LONGEST = 1 << 20  # characters of a configuration
DEEPEST = 64  # levels of nesting


class ConfigError(ValueError):
    """A mistake in a configuration: one sentence that names the field, the value and what is accepted."""


def require_positive(name: str, value: Any) -> None:
    """Raise ConfigError unless value is a positive finite number (traced values pass)."""
    if isinstance(value, int | float) and not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} must be positive, got {value}")


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ConfigError that names the nearest choice unless value is one of them."""
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}{nearest(value, choices)}")


def require_fraction(name: str, value: Any) -> None:
    """Raise ConfigError unless value lies in [0, 1)."""
    if not 0 <= value < 1:
        raise ConfigError(f"{name} must lie in [0, 1), got {value}")


def require_pattern(name: str, value: str) -> None:
    """Raise ConfigError unless value is a regular expression."""
    try:
        re.compile(value)
    except re.error as error:
        raise ConfigError(f"{name} must be a regular expression, got {value!r}: {error}") from None


def nearest(name: str, names: typing.Iterable[str]) -> str:
    """Return '; did you mean X?' for the names close to this one, or nothing."""
    close = difflib.get_close_matches(str(name), list(names), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def override(config: Any, values: Mapping[str, Any]) -> Any:
    """Return a copy of a dataclass tree with dotted fields replaced; an unknown field is a ConfigError."""
    for path, value in values.items():
        config = _replace(config, path.split("."), value, path)
    return config


def _replace(config: Any, parts: list[str], value: Any, path: str) -> Any:
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"{path}: {'.'.join(path.split('.')[: -len(parts)])} has no fields")
    names = [f.name for f in dataclasses.fields(config)]
    if parts[0] not in names:
        raise ConfigError(f"{path}: no field {parts[0]!r}{nearest(parts[0], names)} (fields: {', '.join(names)})")
    if len(parts) > 1:
        value = _replace(getattr(config, parts[0]), parts[1:], value, path)
    return dataclasses.replace(config, **{parts[0]: value})


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return {dotted path: leaf value} of a dataclass tree."""
    leaves: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            leaves |= flatten(value, f"{prefix}{f.name}.")
        else:
            leaves[prefix + f.name] = value
    return leaves


def to_json(config: Any) -> str:
    """Return a dataclass tree as JSON; every dataclass carries its class name under `kind`.

    Raises ConfigError, naming the field, for NaN, infinities and what JSON does not hold.
    """
    return json.dumps(_encode(config, ""), indent=1)


def _encode(value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        prefix = f"{path}." if path else ""
        fields = {f.name: _encode(getattr(value, f.name), prefix + f.name) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [_encode(v, f"{path}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path} must be finite, got {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{path}: cannot write {type(value).__name__} {value!r} as JSON")


def from_json(text: str, kinds: Mapping[str, type], migrate: Callable[[Any], Any] = lambda data: data) -> Any:
    """Rebuild a dataclass tree; whatever `to_json` would not have written is a ConfigError.

    `migrate` puts what an older version wrote, as JSON gives it, into the words of today.
    """
    if len(text) > LONGEST:
        raise ConfigError(f"{len(text)} characters are more than any configuration has")
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_number, parse_float=_finite)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits is a ValueError
        raise ConfigError(f"not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"a configuration is a JSON object, not {type(data).__name__}")
    return _decode(migrate(data), kinds, "recipe", 1)


def _refuse_number(digits: str) -> Any:
    raise ConfigError(f"{digits} is not a number that a configuration accepts")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse_number(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ConfigError(f"field {name!r} stands twice")
    return unique


def _decode(data: Any, kinds: Mapping[str, type], path: str, depth: int) -> Any:
    if depth > DEEPEST:
        raise ConfigError(f"{path[:60]}... is nested deeper than {DEEPEST} levels")
    if isinstance(data, list):
        return tuple(_decode(v, kinds, f"{path}[{i}]", depth + 1) for i, v in enumerate(data))
    if not isinstance(data, dict):
        return data
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"{path}: unknown kind {kind!r}{nearest(str(kind), kinds)}")
    cls = kinds[kind]
    names = {f.name for f in dataclasses.fields(cls)}
    values = {k: v for k, v in data.items() if k != "kind"}
    for name in values:
        if name not in names:
            known = ", ".join(sorted(names))
            raise ConfigError(f"{path}.{name}: no such field{nearest(name, names)} (fields: {known})")
    missing = [f.name for f in dataclasses.fields(cls) if _is_needed(f) and f.name not in values]
    if missing:
        raise ConfigError(f"{path}.{missing[0]} is missing")
    decoded = {name: _decode(value, kinds, f"{path}.{name}", depth + 1) for name, value in values.items()}
    check_types(cls, decoded, path)
    return cls(**decoded)


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def check_types(cls: type, values: Mapping[str, Any], path: str) -> None:
    """Raise ConfigError where a value does not fit the declared type of its field."""
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            shown = getattr(hints[name], "__name__", str(hints[name]))
            raise ConfigError(f"{path}.{name}: {value!r} is not of type {shown}")


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, h) for h in typing.get_args(hint))
    if origin is tuple:
        args = typing.get_args(hint)
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(_fits(v, args[0]) for v in value)
        return len(value) == len(args) and all(_fits(v, a) for v, a in zip(value, args, strict=True))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def kinds_of(config: Any) -> dict[str, type]:
    """Return the classes of a dataclass tree by their names."""
    if isinstance(config, tuple | list):
        return {name: kind for value in config for name, kind in kinds_of(value).items()}
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return {}
    return {
        type(config).__name__: type(config),
        **kinds_of([getattr(config, f.name) for f in dataclasses.fields(config)]),
    }


def renewed(text: str, kinds: Mapping[str, type], migrate: Callable[[Any], Any] = lambda data: data) -> str:
    """Return a configuration's JSON as it is written today: fields that came later at their defaults, new spellings.

    What is of no known kind, such as a task, stays as it is. `migrate` as for `from_json`.
    """

    def renew(data: Any) -> Any:
        if isinstance(data, list):
            return [renew(value) for value in data]
        if not isinstance(data, dict):
            return data
        values = {name: renew(value) for name, value in data.items()}
        cls = kinds.get(values.get("kind", ""))
        if cls is None:
            return values
        for field in dataclasses.fields(cls):
            if field.name not in values and field.default is not dataclasses.MISSING:
                values[field.name] = _encode(field.default, field.name)
            elif field.name not in values and field.default_factory is not dataclasses.MISSING:
                values[field.name] = _encode(field.default_factory(), field.name)
        return json.loads(to_json(from_json(json.dumps(values), kinds))) if known(values) else values

    def known(data: Any) -> bool:
        if isinstance(data, list):
            return all(map(known, data))
        return not isinstance(data, dict) or (data.get("kind") in kinds and all(map(known, data.values())))

    return json.dumps(renew(migrate(json.loads(text))), indent=1)


class Difference(typing.NamedTuple):
    """One leaf in which two configurations differ."""

    path: str
    old: Any
    new: Any


def differences(old: str, new: str) -> list[Difference]:
    """Return the leaves in which two configurations, given as JSON, differ; an absent leaf counts as None.

    Raises ValueError where one is no JSON.
    """
    before, after = (_leaves(json.loads(text)) for text in (old, new))
    paths = sorted(before.keys() | after.keys())
    found = (Difference(path, before.get(path), after.get(path)) for path in paths)
    return [difference for difference in found if difference.old != difference.new]


def _leaves(data: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(data, dict | list) and data:
        items = data.items() if isinstance(data, dict) else enumerate(data)
        return {
            k: v
            for name, value in items
            for k, v in _leaves(value, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: data}
