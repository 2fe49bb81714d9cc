"""A seal that only this user can make, by which an engine of one's own is told from a stranger's.

An engine file is code: loading one runs what it holds. A checksum beside it proves that it is
whole, not who made it; the seal is a keyed digest, with a key that never leaves the user's folder.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuopt.errors import FaultError
from gpuopt.storage import default_cache_dir

__all__ = ["Seal"]

_KEY_BYTES = 32


class Seal:
    """Signs plain values with the user's own key, which is made when it is first needed.

    Args:
        folder: Where the key lies; None means the user's cache folder, whatever `cache_dir` says.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = Path(folder or default_cache_dir()) / "engine_key"

    def sign(self, content: Mapping[str, Any]) -> str:
        """Return the seal of plain values.

        Raises:
            FaultError: When the key cannot be kept.
        """
        return self._of(self._key(), content)

    def matches(self, content: Mapping[str, Any], seal: str) -> bool:
        """Say whether this user sealed these values."""
        try:
            key = self._path.read_bytes()
        except OSError:
            return False
        if len(key) != _KEY_BYTES:
            return False
        # As bytes: strings are compared only where they are ASCII, and the seal is anyone's.
        own, given = self._of(key, content), seal.encode(errors="backslashreplace")
        return hmac.compare_digest(own.encode(), given)

    def _of(self, key: bytes, content: Mapping[str, Any]) -> str:
        words = json.dumps(content, sort_keys=True).encode()
        return hmac.new(key, words, hashlib.sha256).hexdigest()

    def _key(self) -> bytes:
        with contextlib.suppress(OSError):
            if len(key := self._path.read_bytes()) == _KEY_BYTES:
                return key
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_bytes(_KEY_BYTES))
            # A process beside this one may have been faster: its key stays.
            with contextlib.suppress(FileExistsError):
                os.link(temporary, self._path)
            temporary.unlink()
            return self._path.read_bytes()
        except OSError as error:
            raise FaultError(
                f"{self._path} cannot be written ({error.strerror}): engines are sealed with a "
                "key there; make the folder writable, or take engine=eager"
            ) from error
