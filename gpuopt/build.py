"""Build the objects that a configuration names. The only caller of `hydra.utils.instantiate`."""

import inspect
from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from gpuopt.configuration.signatures import check_target
from gpuopt.errors import InputError

__all__ = ["build", "build_callbacks"]


def build(node: Mapping[str, Any], where: str, **given: Any) -> Any:
    """Call the class that a configuration names, after checking that it may be called.

    Args:
        node: A mapping with `_target_`, all interpolations resolved.
        where: Its configuration key, for messages.
        given: Arguments that the program provides; they win over the file's.

    Raises:
        InputError: For a target that is not allowed or arguments that do not fit.
    """
    plain = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    if not isinstance(plain, dict) or "_target_" not in plain:
        raise InputError(f"{where} must hold a _target_")
    plain = {str(key): value for key, value in plain.items()}
    check_target(plain, where)
    # A partial, because Hydra would turn given dataclasses into dictionaries.
    factory = instantiate({**plain, "_partial_": True}, _convert_="all")
    try:
        inspect.signature(factory).bind(**given)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error
    return factory(**given)


def build_callbacks(
    nodes: Mapping[str, Any],
    skip: tuple[str, ...] = (),
    given: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Any]:
    """Build every callback whose `enabled` is true.

    Args:
        nodes: Mappings with `_target_` and `enabled`, by name.
        skip: Names that the caller builds itself.
        given: By name, arguments that the program provides.
    """
    given = given or {}
    return [
        build(
            {key: value for key, value in node.items() if key != "enabled"},
            f"callbacks.{name}",
            **given.get(name, {}),
        )
        for name, node in nodes.items()
        if name not in skip and node.get("enabled", True)
    ]
