"""Files that survive: atomic writes, validated checkpoints, folder locks. Imports no torch."""

from gpuopt.storage.answer_cache import AnswerCache
from gpuopt.storage.atomic import atomic_write, create_text, sync_folder, write_json, write_text
from gpuopt.storage.cache_folder import default_cache_dir
from gpuopt.storage.journal import Journal
from gpuopt.storage.lock import FolderLock, wait_for_folder
from gpuopt.storage.part_file import has_parts, part_file
from gpuopt.storage.paths import existing_folder, place_below, shown
from gpuopt.storage.sidecar import FileRecord, IntactFile, Sidecar, sha256_of

__all__ = [
    "AnswerCache",
    "FileRecord",
    "FolderLock",
    "IntactFile",
    "Journal",
    "Sidecar",
    "atomic_write",
    "create_text",
    "default_cache_dir",
    "existing_folder",
    "has_parts",
    "part_file",
    "place_below",
    "sha256_of",
    "shown",
    "sync_folder",
    "wait_for_folder",
    "write_json",
    "write_text",
]
