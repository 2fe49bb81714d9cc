"""Answers on the disk, each under everything that it depends on."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuopt.storage.atomic import atomic_write

__all__ = ["AnswerCache"]

_DIGEST_BYTES = 32


class AnswerCache:
    """One file per question; one that is damaged, or lies under another's name, is not there.

    Args:
        folder: Made when there is something to keep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, question: Mapping[str, Any]) -> bytes | None:
        """Return what is kept for a question of plain values, or None."""
        asked = _spelled(question)
        try:
            content = self._path(asked).read_bytes()
        except OSError:
            return None
        digest, answer = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return answer if digest == hashlib.sha256(asked + answer).digest() else None

    def write(self, question: Mapping[str, Any], answer: bytes) -> None:
        """Keep an answer; a folder that cannot be written only costs time."""
        asked = _spelled(question)
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path(asked)) as stream:
                stream.write(hashlib.sha256(asked + answer).digest() + answer)

    def _path(self, asked: bytes) -> Path:
        return self.folder / hashlib.sha256(asked).hexdigest()[:32]


def _spelled(question: Mapping[str, Any]) -> bytes:
    return json.dumps(question, sort_keys=True).encode() + b"\n"
