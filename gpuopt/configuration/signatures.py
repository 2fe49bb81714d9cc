"""Check the keys under a `_target_` against its class, by reading the source instead of importing.

Importing torch and Lightning takes seconds; a typo should not have to wait for them. Only classes
of gpuopt itself are read; other allowed targets are bound by Python when they are built.
"""

import ast
import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuopt.errors import InputError, nearest

__all__ = ["ALLOWED_PACKAGES", "Parameter", "check_target", "parameters_of"]

# Nothing else is ever imported or called because a configuration names it.
ALLOWED_PACKAGES = (
    "gpuopt",
    "lightning.pytorch.callbacks",
    "torchvision.transforms",
    "torchvision.transforms.v2",
)
_PACKAGE = Path(__file__).parent.parent
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
    _refuse_foreign(target, where)
    known = None
    if target.startswith("gpuopt."):
        known = {parameter.name: parameter for parameter in parameters_of(target, where)}
    for key, value in node.items():
        if key == "_target_":
            continue
        # A key of Hydra's own, such as `_args_`, is an argument of no class.
        if (known is not None and key not in known) or str(key).startswith("_"):
            raise InputError(f"{where} has no key {key!r}{nearest(str(key), known or ())}")
        is_object = isinstance(value, Mapping) and "_target_" in value
        if known is not None and not is_object and not _fits(value, known[key].annotation):
            raise InputError(f"{where}.{key}={value!r} {_wanted(value, known[key].annotation)}")
        _check_inside(value, f"{where}.{key}")


def _refuse_foreign(target: str, where: str) -> None:
    """Let through classes of the allowed packages only.

    One capitalised name after the package: a longer path could lead through a module's imports
    out of the package, as in `package.module.os.system`.
    """
    package, _, name = target.rpartition(".")
    is_ours = package.startswith("gpuopt.") and all(map(str.isidentifier, package.split(".")))
    is_class = name.isidentifier() and name[0].isupper()
    if not is_class or not (is_ours or package in ALLOWED_PACKAGES):
        raise InputError(
            f"{where}._target_={target} is refused: only classes of "
            f"{', '.join(ALLOWED_PACKAGES)} are built"
        )


def _check_inside(value: Any, where: str) -> None:
    """Check targets however deep they lie, because Hydra builds them however deep they lie."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            check_target(value, where)
            return
        for key, item in value.items():
            _check_inside(item, f"{where}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            _check_inside(item, f"{where}[{index}]")


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
    tree, found = _find(module, name) or (None, None)
    if tree is None or not isinstance(found, ast.ClassDef):
        raise InputError(f"{where}._target_={target} names no class of gpuopt")
    return tuple(_collect(tree, found).values())


def _collect(tree: ast.Module, node: ast.ClassDef) -> dict[str, Parameter]:
    init = next(
        (f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None
    )
    if init is not None:
        inherited = _base_parameters(tree, node) if init.args.kwarg else {}
        return inherited | _own_parameters(tree, init.args)
    if not _is_dataclass(node):
        return _base_parameters(tree, node)
    fields = {
        f.target.id: Parameter(f.target.id, _annotation(tree, f.annotation), f.value is None)
        for f in node.body
        if isinstance(f, ast.AnnAssign)
        and isinstance(f.target, ast.Name)
        and not ast.unparse(f.annotation).startswith("ClassVar")
    }
    return _base_parameters(tree, node) | fields


def _own_parameters(tree: ast.Module, arguments: ast.arguments) -> dict[str, Parameter]:
    positional = arguments.args[1:]
    without_default = len(positional) - len(arguments.defaults)
    found = {
        a.arg: Parameter(a.arg, _annotation(tree, a.annotation), i < without_default)
        for i, a in enumerate(positional)
    }
    for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found[a.arg] = Parameter(a.arg, _annotation(tree, a.annotation), default is None)
    return found


def _annotation(tree: ast.Module, node: ast.expr | None) -> str:
    return ast.unparse(_Spelled(tree).visit(copy.deepcopy(node))) if node is not None else ""


class _Spelled(ast.NodeTransformer):
    """Replaces a name that was given to a type, such as `CacheMode`, by the type."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree

    def visit_Name(self, node: ast.Name) -> ast.expr:
        found = _resolve(self._tree, node.id)
        return found[1].value if found is not None and isinstance(found[1], ast.Assign) else node


def _base_parameters(tree: ast.Module, node: ast.ClassDef) -> dict[str, Parameter]:
    merged: dict[str, Parameter] = {}
    for base in node.bases:
        if not isinstance(base, ast.Name):
            continue
        tree_of_base, found = _resolve(tree, base.id) or (tree, None)
        if isinstance(found, ast.ClassDef):
            merged |= _collect(tree_of_base, found)
    return merged


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def _find(module: str, name: str) -> tuple[ast.Module, ast.ClassDef | ast.Assign] | None:
    tree = _parse(module)
    return None if tree is None else _resolve(tree, name)


def _resolve(tree: ast.Module, name: str) -> tuple[ast.Module, ast.ClassDef | ast.Assign] | None:
    """Follow a name through `from gpuopt... import name` to the statement that makes it."""
    for node in _statements(tree):
        if isinstance(node, ast.ClassDef):
            if node.name == name:
                return tree, node
        elif isinstance(node, ast.Assign):
            if any(isinstance(target, ast.Name) and target.id == name for target in node.targets):
                return tree, node
        else:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(str(node.module), alias.name)
    return None


@functools.cache  # walking the tree for every name took a quarter of a command's start
def _statements(tree: ast.Module) -> tuple[ast.ClassDef | ast.Assign | ast.ImportFrom, ...]:
    """List what can make a name that others see."""
    found: list[ast.ClassDef | ast.Assign | ast.ImportFrom] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if (node.module or "").startswith("gpuopt"):
                found.append(node)
        elif isinstance(node, ast.ClassDef) or (isinstance(node, ast.Assign) and node in tree.body):
            found.append(node)
    return tuple(found)


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
    """Check a value against an annotation, as far as plain values and lists can be told apart.

    What is annotated with a class can only be null or an object with a `_target_` of its own.
    """
    return not annotation or any(_fits_one(value, member) for member in _members(annotation))


def _fits_one(value: Any, member: ast.expr) -> bool:
    text = ast.unparse(member)
    if text in _TYPES:
        kinds = _TYPES[text]
        return bool in kinds if isinstance(value, bool) else isinstance(value, kinds)
    if isinstance(member, ast.Subscript):
        choices = _choices(member)
        if choices:
            return any(value == choice and type(value) is type(choice) for choice in choices)
        return isinstance(value, list | tuple | Mapping)
    return text == "Any"


def _members(annotation: str) -> list[ast.expr]:
    """Split `A | B | None` into its parts."""
    parts: list[ast.expr] = [ast.parse(annotation, mode="eval").body]
    while isinstance(parts[0], ast.BinOp):
        parts[:1] = [parts[0].left, parts[0].right]
    return parts


def _choices(member: ast.expr) -> tuple[Any, ...]:
    """The values of a `Literal[...]`, or nothing."""
    if not (isinstance(member, ast.Subscript) and ast.unparse(member.value) == "Literal"):
        return ()
    values = ast.literal_eval(member.slice)
    return values if isinstance(values, tuple) else (values,)


def _wanted(value: Any, annotation: str) -> str:
    """Say what a key takes, to follow the value that it does not take."""
    members = _members(annotation)
    choices = [str(choice) for member in members for choice in _choices(member)]
    if choices:
        return f"is not one of {', '.join(choices)}"
    if any(isinstance(member, ast.Name) and member.id not in _TYPES for member in members):
        null = "null, or " if "None" in map(ast.unparse, members) else ""
        return f"must be {null}an object with a _target_ of its own"
    return f"is not of type {annotation}"
