"""The arguments of every `_target_` in a config, checked against the signature before any data is read."""

from __future__ import annotations

import inspect
import pkgutil
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union

from stormcell.config import UserError, nearest

_HYDRA = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def check_calls(node: Any, path: str = "") -> None:
    """Walk a plain config: unknown arguments and values of a wrong type raise UserError with the key's full name."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            _check_call(node, path)
        for key, value in node.items():
            check_calls(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            check_calls(value, f"{path}[{i}]")


def _check_call(node: Mapping[str, Any], path: str) -> None:
    try:
        function = pkgutil.resolve_name(node["_target_"])
    except Exception as error:
        raise UserError(f"{path}._target_={node['_target_']}: cannot be imported ({error})") from error
    parameters = _parameters(function)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = _hints(function)
    for key, value in node.items():
        if key in _HYDRA:
            continue
        if key not in parameters:
            if open_ended:
                continue
            raise UserError(
                f"{path}.{key}: {node['_target_'].split('.')[-1]} has no such argument{nearest(key, parameters)}"
            )
        if value == "???":  # OmegaConf's word for a value that must be given
            raise UserError(f"{path}.{key} is missing: give it with {path}.{key}=…")
        hint = hints.get(key, _type_of_default(parameters[key].default))
        if not _fits(value, hint):
            raise UserError(f"{path}.{key}={value!r}: {_words(hint)} expected")


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    """Arguments that a config can name; `**keywords: Unpack[C]` stands for the arguments of the dataclass C."""
    found, hints = {}, _own_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclass := _unpacked(hints.get(name)):
            found |= inspect.signature(dataclass).parameters
        elif parameter.kind is not parameter.POSITIONAL_ONLY:  # those are given by the caller
            found[name] = parameter
    return found


def _hints(function: Any) -> dict[str, Any]:
    found = _own_hints(function)
    for dataclass in filter(None, map(_unpacked, list(found.values()))):
        found |= _own_hints(dataclass)
    return found


def _own_hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except Exception:  # hints of other libraries may name what is imported for type checkers only
        return {}


def _unpacked(hint: Any) -> Any:
    """C of `Unpack[C]`, else None."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Unpack else None


def _type_of_default(default: Any) -> Any:
    return type(default) if isinstance(default, (bool, int, float)) else Any


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain config value can be meant by a type hint."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or (isinstance(value, Mapping) and "_target_" in value):
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is typing.Annotated:
        return _fits(value, arguments[0])
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    kind = origin or hint
    if inspect.isclass(kind) and issubclass(kind, str):
        return isinstance(value, str)
    if kind in (list, tuple, set) or (inspect.isclass(kind) and issubclass(kind, (Sequence, typing.Iterable))):
        plain = isinstance(value, Mapping) if issubclass(kind, Mapping) else isinstance(value, (list, Mapping))
        return plain and all(_fits(item, arguments[0]) for item in value if arguments and isinstance(value, list))
    if kind is bool:
        return isinstance(value, bool)
    return isinstance(value, str) and "Path" in str(kind)


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(option) for option in typing.get_args(hint)))
    if _listed(hint):
        items = [_words(item).removeprefix("a ") for item in typing.get_args(hint) if item is not ...]
        return f"a list, each item a {items[0]}" if items else "a list"
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a word", type(None): "null"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _listed(hint: Any) -> bool:
    kind = typing.get_origin(hint) or hint
    return inspect.isclass(kind) and issubclass(kind, Sequence) and not issubclass(kind, str)
