"""config.json of Hugging Face, in and out: strict, so that no model is read that would compute something else.

family, config = read_config(json.loads(text), "config.json")
data = write_config(family, config)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lm.config import Learned, Llama3Scaling, LongRope, Rotary, TransformerConfig
from lm.exits import Unusable, UserError
from lm.interop.families import FAMILIES, Family
from lm.models.transformer import Resolved, resolve
from lm.strict import ConfigError, check_types, nearest, require_choice

# Keys that change no score: of training, of generation, of labels, of files.
IGNORED = frozenset(
    {
        *("architectures", "model_type", "_name_or_path", "transformers_version", "torch_dtype", "dtype", "auto_map"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "use_cache", "return_dict", "pretraining_tp"),
        *("initializer_range", "attention_dropout", "id2label", "label2id", "chunk_size_feed_forward"),
        *("task_specific_params", "is_llama_config", "transformers.js_config", "max_position_embeddings"),
        # Read where the positions and the layers are.
        *("rope_theta", "rope_scaling", "rope_parameters", "layer_types"),
    }
)
# Fields that change no score.
TRAINING = (
    "dropout",
    "embedding_dropout",
    "attention",
    "dtype",
    "products",
    "reference",
    "remat",
    "unroll",
    "initialisation",
)
LARGEST = 2**31


def read_config(data: Any, where: str) -> tuple[Family, TransformerConfig]:
    """Return the family and the configuration of a config.json; Unusable with the key that is not understood."""
    if not isinstance(data, dict):
        raise Unusable(f"{where} holds no JSON object")
    family = _family(data, where)
    values = {**{key: allowed[0] for key, allowed in family.only.items()}, **family.absent, **data}
    _refuse_unknown(family, values, where)
    missing = [key for key in (*family.keys, family.activation_key) if key not in values]
    if missing:
        raise Unusable(f"{where} lacks {missing[0]}, which a {family.architecture} needs")
    activation = values[family.activation_key]
    if not isinstance(activation, str) or activation not in family.activations:
        known = ", ".join(family.activations)
        raise Unusable(f"{where}: {family.activation_key} {activation!r} is not one of {known}")
    fields = {ours: _number(values[key], key, where) for key, ours in family.keys.items()}
    fields |= {**family.fixed, "activation": family.activations[activation]}
    fields["positions"] = _read_positions(family, values, where)
    try:
        check_types(TransformerConfig, fields, "model")
        config = TransformerConfig(**fields)
        resolve(config)
    except ConfigError as error:
        raise Unusable(f"{where} describes no model: {error}") from None
    _check_layer_types(values, config, where)
    return family, config


def _family(data: Mapping[str, Any], where: str) -> Family:
    named = data.get("architectures")
    names = {family.architecture: family for family in FAMILIES.values()}
    if not (isinstance(named, list) and len(named) == 1 and isinstance(named[0], str) and named[0] in names):
        raise Unusable(
            f"{where}: architectures {named!r} is none that can be read{nearest(str(named), names)} "
            f"({', '.join(sorted(names))})"
        )
    return names[named[0]]


def _refuse_unknown(family: Family, values: Mapping[str, Any], where: str) -> None:
    known = {*family.keys, *family.only, *family.ignored, *IGNORED, family.activation_key}
    known |= {family.rows_key} if family.rows_key else {family.base_key, family.fraction_key}
    for key, value in values.items():
        if key in family.only and value not in family.only[key]:
            raise Unusable(f"{where}: {key} {value!r} is not supported for {family.architecture}")
        if key not in known and value not in (None, False, "", [], {}):
            raise Unusable(f"{where}: {key} {value!r} is not understood, and might change what the model computes")


def _number(value: Any, key: str, where: str) -> Any:
    if isinstance(value, int | float) and not abs(value) < LARGEST:
        raise Unusable(f"{where}: {key} {value!r} is beyond any model")
    return value


def _check_layer_types(values: Mapping[str, Any], config: TransformerConfig, where: str) -> None:
    kind = "full_attention" if config.window is None else "sliding_attention"
    kinds = values.get("layer_types")
    if kinds is not None and kinds != [kind] * config.depth:
        raise Unusable(f"{where}: layer_types is not {kind} in each of {config.depth} layers")


def _read_positions(family: Family, values: Mapping[str, Any], where: str) -> Rotary | Learned:
    if family.rows_key:
        return Learned(_need(values, family.rows_key, int, where))
    given: Any = next((values[key] for key in ("rope_parameters", "rope_scaling") if values.get(key) is not None), {})
    if not isinstance(given, dict):
        raise Unusable(f"{where}: the rotary settings {given!r} are no JSON object")
    for name, key in (("rope_theta", family.base_key), ("partial_rotary_factor", family.fraction_key)):
        if name in values and values[name] != values[key]:
            raise Unusable(f"{where}: {name} {values[name]!r} contradicts {key} {values[key]!r}")
    # Newer files hold everything in one object; older ones hold base and fraction beside it.
    rope = {"rope_theta": values[family.base_key], "partial_rotary_factor": values[family.fraction_key], **given}
    kinds = {str(rope.pop(key)) for key in ("rope_type", "type") if key in rope} or {"default"}
    base, fraction = (float(_need(rope, key, (int, float), where)) for key in ("rope_theta", "partial_rotary_factor"))
    if "partial_rotary_factor" in family.only and fraction != 1:
        raise Unusable(f"{where}: partial_rotary_factor {fraction} is not supported for {family.architecture}")
    rest = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    scaling: Llama3Scaling | LongRope | None = None
    if kinds == {"llama3"}:
        scaling = _read_llama3(rest, where)
    elif kinds <= {"longrope", "su"}:
        scaling = _read_long(rest, values, where)
    elif kinds != {"default"}:
        raise Unusable(f"{where}: rotary scaling {sorted(kinds)} is not one of default, llama3, longrope")
    elif rest:
        raise Unusable(f"{where}: rotary setting {min(rest)} is not understood")
    return Rotary(base, fraction, scaling)


LLAMA3_KEYS = {
    "factor": "factor",
    "low_freq_factor": "low",
    "high_freq_factor": "high",
    "original_max_position_embeddings": "original",
}


def _read_llama3(rest: Mapping[str, Any], where: str) -> Llama3Scaling:
    if set(rest) != set(LLAMA3_KEYS):
        raise Unusable(f"{where}: llama3 scaling needs exactly {', '.join(LLAMA3_KEYS)}, got {', '.join(rest)}")
    kinds = {"original": int}
    numbers = {ours: _need(rest, key, kinds.get(ours, (int, float)), where) for key, ours in LLAMA3_KEYS.items()}
    return Llama3Scaling(**numbers)


def _read_long(rest: Mapping[str, Any], values: Mapping[str, Any], where: str) -> LongRope:
    key = "original_max_position_embeddings"
    settings = {**rest, **{key: values[key] for key in (key,) if values.get(key) is not None}}
    original = _need(settings, key, int, where)
    longest = _need(values, "max_position_embeddings", int, where)
    if set(settings) - {key, "short_factor", "long_factor"}:
        raise Unusable(f"{where}: longrope settings are short_factor, long_factor and {key}, got {', '.join(rest)}")
    short, long = (tuple(_need(settings, name, list, where)) for name in ("short_factor", "long_factor"))
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and x > 0 for x in (*short, *long)):
        raise Unusable(f"{where}: the factors of longrope are not all positive numbers")
    return LongRope(tuple(map(float, short)), tuple(map(float, long)), original, longest)


def _need(values: Mapping[str, Any], key: str, kind: Any, where: str) -> Any:
    if key not in values:
        raise Unusable(f"{where} lacks {key}")
    value = _number(values[key], key, where)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Unusable(f"{where}: {key} {value!r} is of the wrong type")
    return value


def write_config(family: Family, config: TransformerConfig, length: int = 2048) -> dict[str, Any]:
    """Return the config.json of a model of this family; `length` is the longest text, where the model sets none."""
    full = resolve(config)
    activations = {ours: theirs for theirs, ours in reversed(list(family.activations.items()))}
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **{key: getattr(full, ours) for key, ours in family.keys.items()},
        **{key: allowed[0] for key, allowed in family.only.items()},
        **_write_positions(family, full, length),
        family.activation_key: activations[full.activation],
    }


def _write_positions(family: Family, config: Resolved, length: int) -> dict[str, Any]:
    match config.positions:
        case Learned(rows) if family.rows_key:
            return {family.rows_key: rows}
        case Rotary(base, fraction, scaling) if not family.rows_key:
            data: dict[str, Any] = {
                family.base_key: base,
                family.fraction_key: fraction,
                "max_position_embeddings": length,
            }
        case _:
            return {family.rows_key: length} if family.rows_key else {}
    match scaling:
        case Llama3Scaling():
            named = {key: getattr(scaling, ours) for key, ours in LLAMA3_KEYS.items()}
            data["rope_scaling"] = {"rope_type": "llama3", **named}
        case LongRope(short, long, original, longest):
            factors = {"short_factor": list(short), "long_factor": list(long)}
            data["rope_scaling"] = {"type": "longrope", **factors}  # older readers of a Phi-3 allow no other key
            data |= {"original_max_position_embeddings": original, "max_position_embeddings": longest}
    return data


def unexpressed(family: Family, config: TransformerConfig) -> list[str]:
    """Return what a family cannot say of a model, field by field: what an export would not read back."""
    if config.initialisation == "t5":
        return ["model.initialisation 't5', which leaves scores unscaled"]
    full = resolve(config)
    known = tuple(family.activations.values())
    sayable = full if full.activation in known else dataclasses.replace(full, activation=known[0])
    try:
        reread = resolve(read_config(write_config(family, sayable), family.model_type)[1])
    except Unusable as error:
        return [str(error)]
    names = [each.name for each in dataclasses.fields(full) if each.name not in TRAINING]
    if full.tied:
        names.remove("head_bias")
    if not full.parallel:
        names.remove("shared_norm")
    return [f"model.{name} {getattr(full, name)!r}" for name in names if getattr(full, name) != getattr(reread, name)]


def choose_family(config: TransformerConfig, name: str | None = None, first: str | None = None) -> Family:
    """Return the named family, else the first that expresses a model, `first` before all; UserError where none does."""
    if name is not None:
        require_choice("family", name, tuple(FAMILIES))
    order = sorted(FAMILIES.values(), key=lambda each: each.model_type != first) if name is None else [FAMILIES[name]]
    lacking = {family.model_type: unexpressed(family, config) for family in order}
    closest = min(lacking, key=lambda each: len(lacking[each]))
    if lacking[closest]:
        raise UserError(f"no export: {closest}, the nearest family, does not express {', '.join(lacking[closest])}")
    return FAMILIES[closest]
