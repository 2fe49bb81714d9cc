"""An engine's file and the sidecar that vouches for it.

The sidecar, `<file>.json`, holds what the engine was built for, its size and checksum, and the
user's seal over all of it. A file is loaded only when everything agrees.

The sidecar comes first. Who is stopped between the two leaves one that speaks of another content,
which is never loaded, and tells by `replaces_sha256` that what lies there is one's own.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpuopt.engine.cache_key import differing
from gpuopt.engine.protocol import EngineRequest
from gpuopt.engine.seal import Seal
from gpuopt.errors import FaultError, InputError
from gpuopt.storage import sha256_of, sync_folder, write_json

__all__ = ["EngineFile"]

_SCHEMA = 1
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class EngineFile:
    """One engine on disk.

    Attributes:
        path: The engine's file.
        seal: Of the user.
    """

    path: Path
    seal: Seal

    @property
    def sidecar(self) -> Path:
        """The file that vouches for it."""
        return self.path.with_name(f"{self.path.name}.json")

    def content(self) -> dict[str, Any]:
        """Read the sidecar; empty when there is none or it is no sidecar."""
        try:
            if self.sidecar.stat().st_size > _MOST_BYTES:
                return {}
            content = json.loads(self.sidecar.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        is_right = isinstance(content, dict) and content.get("schema") == _SCHEMA
        return content if is_right and isinstance(content.get("key"), dict) else {}

    @property
    def engine(self) -> str:
        """The backend that built it, by its sidecar."""
        return str(self.content().get("key", {}).get("engine"))

    def request(self, device: torch.device) -> EngineRequest:
        """Return what it was built for, on a device of now.

        Raises:
            InputError: When the sidecar does not say it.
        """
        try:
            asked = {**self.content()["request"], "device": device}
            return EngineRequest(**{**asked, "fp32_layers": tuple(asked["fp32_layers"])})
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self.sidecar} is damaged: build the engine again with gpuopt export"
            ) from error

    def objection(self) -> str | None:
        """Say why the file must not be loaded, in a clause; None when it is whole and one's own."""
        if not self.path.is_file():
            return "there is no such file"
        content = self.content()
        if not content:
            return f"{self.sidecar.name} is missing or damaged"
        seal = content.pop("seal", None)
        if not isinstance(seal, str) or not self.seal.matches(content, seal):
            return "it was not built by this user on this machine, and an engine is code"
        is_whole = self.path.stat().st_size == content.get("size_bytes")
        if not is_whole or sha256_of(self.path) != content.get("sha256"):
            return "its content is not what was built"
        return None

    def is_interrupted(self) -> bool:
        """Say whether one's own sidecar waits for an engine, beside nothing or the one before."""
        content = self.content()
        seal = content.pop("seal", None)
        if not isinstance(seal, str) or not self.seal.matches(content, seal):
            return False
        if not os.path.lexists(self.path):
            return True
        return self.path.is_file() and sha256_of(self.path) == content.get("replaces_sha256")

    def mismatch(self, key: dict[str, str]) -> str:
        """Name what differs from what is wanted now; empty when nothing does."""
        return "; ".join(differing(key, self.content().get("key", {})))

    def build(
        self,
        write: Callable[[Path], None],
        request: EngineRequest,
        key: dict[str, str],
    ) -> None:
        """Build the engine and its sidecar; an older file of the name is replaced at the end.

        Args:
            write: Writes the engine into a new file, as `Backend.build` does.
            request: What it is built for.
            key: Everything that it depends on.

        Raises:
            InputError: When the backend is unavailable.
            FaultError: When the network cannot be built or the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".engine.", dir=self.path.parent) as folder:
                # Under its final name: what a backend writes may name itself.
                temporary = Path(folder) / self.path.name
                write(temporary)
                self._put(temporary, key, request)
        except OSError as error:
            raise FaultError(
                f"{self.path} cannot be written ({error.strerror}): free space, or name another "
                "place with output=... or cache_dir=..."
            ) from error

    def vouch(self, source: Path, key: dict[str, str], request: EngineRequest) -> None:
        """Write the sidecar for a content that is about to take the file's name."""
        with source.open("rb") as stream:
            os.fsync(stream.fileno())
        content = {
            "schema": _SCHEMA,
            "key": key,
            "request": request.as_dict(),
            "size_bytes": source.stat().st_size,
            "sha256": sha256_of(source),
            "replaces_sha256": self._own_sha256(),
        }
        write_json(self.sidecar, {**content, "seal": self.seal.sign(content)})

    def _put(self, staged: Path, key: dict[str, str], request: EngineRequest) -> None:
        """Give a content the file's name, after the sidecar that vouches for it."""
        self.vouch(staged, key, request)
        staged.replace(self.path)
        sync_folder(self.path.parent)

    def _own_sha256(self) -> str | None:
        """Digest the engine of one's own that lies there, which an interrupted build may be."""
        if self.objection() is None or self.is_interrupted():
            return sha256_of(self.path) if self.path.is_file() else None
        return None

    def copy_of(self, other: "EngineFile", request: EngineRequest) -> None:
        """Become a copy of another file of one's own, with a sidecar of its own.

        Raises:
            InputError: When the other must not be loaded.
            FaultError: When the folder cannot be written.
        """
        other.require()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".engine.", dir=self.path.parent) as folder:
                staged = Path(folder) / self.path.name
                shutil.copyfile(other.path, staged)
                self._put(staged, other.content()["key"], request)
        except OSError as error:
            raise FaultError(
                f"{self.path} cannot be written ({error.strerror}): free space, or name another "
                "place with output=..."
            ) from error

    def require(self) -> None:
        """Refuse a file that must not be loaded.

        Raises:
            InputError: Names the file, the reason and the remedy.
        """
        if reason := self.objection():
            raise InputError(f"{self.path} is refused: {reason}; build it here with gpuopt export")
