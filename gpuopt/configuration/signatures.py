"""Check the keys under a `_target_` against its class, by reading the source instead of importing.

Importing torch and Lightning takes seconds; a typo should not have to wait for them. Only classes
of gpuopt itself are read; other allowed targets are bound by Python when they are built.
"""

import ast
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuopt.errors import InputError, nearest

__all__ = ["ALLOWED_PACKAGES", "Parameter", "check_target", "parameters_of"]

# Nothing else is ever imported or called because a configuration names it.
ALLOWED_PACKAGES = ("gpuopt", "lightning.pytorch.callbacks", "torchvision.transforms")
# Given by the program when it builds the object, so not to be set in a file.
_PACKAGE = Path(__file__).parent.parent
_SPECIAL = ("_target_", "enabled")
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "None": (type(None),),
    "Path": (str,),
}


@dataclass(frozen=True)
class Parameter:
    """One argument of a class.

    Attributes:
        name: As written in the source.
        annotation: Its type as source text, or an empty string.
        required: Whether it has no default.
    """

    name: str
    annotation: str
    required: bool


def check_target(node: Mapping[str, Any], where: str) -> None:
    """Refuse keys and simple types that the named class does not take.

    Args:
        node: A mapping with `_target_`, and nested ones inside.
        where: The configuration key of the mapping, for the message.

    Raises:
        InputError: For a target outside the allowed packages, an unknown class or key, or a
            value of another type.
    """
    target = str(node["_target_"])
    if not target.startswith(tuple(f"{package}." for package in ALLOWED_PACKAGES)):
        raise InputError(
            f"{where}._target_={target} is refused: only {', '.join(ALLOWED_PACKAGES)} are built"
        )
    if not target.startswith("gpuopt."):
        return
    known = {parameter.name: parameter for parameter in parameters_of(target, where)}
    for key, value in node.items():
        if key in _SPECIAL:
            continue
        if key not in known:
            raise InputError(f"{where} has no key {key!r}{nearest(str(key), known)}")
        if isinstance(value, Mapping) and "_target_" in value:
            check_target(value, f"{where}.{key}")
        elif not _fits(value, known[key].annotation):
            raise InputError(f"{where}.{key}={value!r} is not of type {known[key].annotation}")


@functools.cache
def parameters_of(target: str, where: str = "configuration") -> tuple[Parameter, ...]:
    """List the arguments of a class of gpuopt, with those of the bases it passes `**kwargs` to.

    Args:
        target: A re-exported name, for example `gpuopt.model.Classifier`.
        where: The configuration key, for the message.

    Raises:
        InputError: When no such class exists.
    """
    module, _, name = target.rpartition(".")
    found = _find_class(module, name)
    if found is None:
        raise InputError(f"{where}._target_={target} names no class of gpuopt")
    return tuple(_collect(*found).values())


def _collect(tree: ast.Module, node: ast.ClassDef) -> dict[str, Parameter]:
    init = next(
        (f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None
    )
    if init is None:
        fields = {
            f.target.id: Parameter(f.target.id, ast.unparse(f.annotation), f.value is None)
            for f in node.body
            if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)
        }
        return (
            _base_parameters(tree, node) | fields
            if _is_dataclass(node)
            else (_base_parameters(tree, node))
        )
    inherited = _base_parameters(tree, node) if init.args.kwarg else {}
    return inherited | _own_parameters(init.args)


def _own_parameters(arguments: ast.arguments) -> dict[str, Parameter]:
    positional = arguments.args[1:]
    without_default = len(positional) - len(arguments.defaults)
    found = {
        a.arg: Parameter(
            a.arg, ast.unparse(a.annotation) if a.annotation else "", i < without_default
        )
        for i, a in enumerate(positional)
    }
    for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        annotation = ast.unparse(a.annotation) if a.annotation else ""
        found[a.arg] = Parameter(a.arg, annotation, default is None)
    return found


def _base_parameters(tree: ast.Module, node: ast.ClassDef) -> dict[str, Parameter]:
    merged: dict[str, Parameter] = {}
    for base in node.bases:
        if not isinstance(base, ast.Name):
            continue
        found = _resolve(tree, base.id)
        if found is not None:
            merged |= _collect(*found)
    return merged


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def _find_class(module: str, name: str) -> tuple[ast.Module, ast.ClassDef] | None:
    tree = _parse(module)
    return None if tree is None else _resolve(tree, name)


def _resolve(tree: ast.Module, name: str) -> tuple[ast.Module, ast.ClassDef] | None:
    """Follow a name through `from gpuopt... import name` to the class statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return tree, node
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpuopt"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find_class(str(node.module), alias.name)
    return None


@functools.cache
def _parse(module: str) -> ast.Module | None:
    parts = module.split(".")[1:]
    for path in (
        _PACKAGE.joinpath(*parts, "__init__.py"),
        _PACKAGE.joinpath(*parts).with_suffix(".py"),
    ):
        if path.is_file():
            return ast.parse(path.read_text("utf-8"))
    return None


def _fits(value: Any, annotation: str) -> bool:
    """Check a value against the simple types of an annotation; anything else is Python's."""
    names = [name.strip() for name in annotation.split("|")]
    if not annotation or any(name not in _TYPES for name in names):
        return True
    allowed = tuple(kind for name in names for kind in _TYPES[name])
    if isinstance(value, bool):
        return bool in allowed
    return isinstance(value, allowed)
