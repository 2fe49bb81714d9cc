"""Read from a package's source what its functions take, without importing it.

torch-tensorrt cannot be imported without TensorRT, and not run without a GPU, so its arguments are
recorded in `torch_tensorrt.json`. To record another release:

    pip download --no-deps torch-tensorrt==VERSION
    python -m tests.engine.package_signatures torch_tensorrt-VERSION-*.whl
"""

import ast
import hashlib
import inspect
import json
import sys
import tempfile
import zipfile
from pathlib import Path

RECORD = Path(__file__).with_name("torch_tensorrt.json")
# Everything of it that gpuopt calls, by the path under which it is called.
CALLED = (
    "torch_tensorrt.Device",
    "torch_tensorrt.Input",
    "torch_tensorrt.dynamo.CompilationSettings",
    "torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine",
    "torch_tensorrt.runtime.TorchTensorRTModule",
    "torch_tensorrt.runtime.TorchTensorRTModule.set_optimization_profile",
)
KINDS = {"positional": inspect.Parameter.POSITIONAL_OR_KEYWORD}
KINDS["keyword"] = inspect.Parameter.KEYWORD_ONLY


def read_signatures(root):
    """Return the arguments of all that is called, from the folder that holds the package."""
    return {path: _parameters(*_find(root, path.split("."))) for path in CALLED}


def recorded():
    return json.loads(RECORD.read_text("utf-8"))


def signature_of(path):
    """Rebuild a recorded signature. What only `**kwargs` would take is not in it."""
    parameters = [
        inspect.Parameter(
            p["name"], KINDS[p["kind"]], default=p.get("default", inspect.Parameter.empty)
        )
        for p in recorded()["callables"][path]
    ]
    return inspect.Signature(parameters)


def _find(root, parts):
    """Follow a dotted path through files, imports and classes to its definition."""
    folder, rest = root, list(parts)
    while rest and (folder / rest[0]).is_dir():
        folder = folder / rest.pop(0)
    return _in_file(root, folder / "__init__.py", rest)


def _in_file(root, file, names):
    tree = ast.parse(file.read_text("utf-8"))
    name, *inner = names
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            if not inner:
                return tree, node
            return tree, next(n for n in node.body if getattr(n, "name", "") == inner[0])
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            base = file.parent if node.level else root
            target = base.joinpath(*(node.module or "").split("."))
            source = target / "__init__.py" if target.is_dir() else target.with_suffix(".py")
            return _in_file(root, source, names)
    raise LookupError(f"{name} is not in {file}")


def _parameters(tree, node):
    if isinstance(node, ast.FunctionDef):
        return _arguments(node)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
        return [_parameter(f.target.id, "positional", f.value) for f in fields]
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    if methods["__init__"].args.vararg is None:
        return _arguments(methods["__init__"])
    # It takes anything, and looks up what it knows.
    keys = {key for method in methods.values() for key in _looked_up(method)}
    return [{"name": key, "kind": "keyword", "default": "not given"} for key in sorted(keys)]


def _arguments(node):
    spec = node.args
    names = [argument.arg for argument in spec.args]
    defaults = [None] * (len(names) - len(spec.defaults)) + list(spec.defaults)
    found = [_parameter(n, "positional", d) for n, d in zip(names, defaults, strict=True)]
    found += [
        _parameter(a.arg, "keyword", d)
        for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    ]
    return [p for p in found if p["name"] != "self"]


def _parameter(name, kind, default):
    found = {"name": name, "kind": kind}
    return found if default is None else {**found, "default": ast.unparse(default)}


def _looked_up(method):
    """Name the constants by which a method asks its `kwargs`."""
    for node in ast.walk(method):
        text = ast.unparse(node) if isinstance(node, ast.expr) else ""
        if isinstance(node, ast.Subscript) and text.startswith("kwargs["):
            yield from _constant(node.slice)
        elif isinstance(node, ast.Call) and text.startswith("kwargs.get("):
            yield from _constant(node.args[0])
        elif isinstance(node, ast.Compare) and text.endswith(" in kwargs"):
            yield from _constant(node.left)


def _constant(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def record(wheel):
    """Write the record of a wheel."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        callables = read_signatures(Path(folder))
    content = {
        "package": "torch-tensorrt",
        "version": wheel.name.split("-")[1],
        "wheel": wheel.name,
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "callables": callables,
    }
    RECORD.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
