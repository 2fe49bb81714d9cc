"""Files that survive: atomic writes, validated checkpoints, folder locks. Imports no torch."""

from gpuopt.storage.atomic import atomic_write, write_json, write_text
from gpuopt.storage.lock import FolderLock
from gpuopt.storage.sidecar import FileRecord, Sidecar, sha256_of

__all__ = [
    "FileRecord",
    "FolderLock",
    "Sidecar",
    "atomic_write",
    "sha256_of",
    "write_json",
    "write_text",
]
