"""What an engine's key has of the network in a file of weights, noted by the file's digest.

With it an engine that was accepted for the network is opened without building it. A note is sealed:
one of another network would let an engine of other weights answer without a word. It holds as long
as the code that makes a network of a file does not change.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from gpuopt.engine.cache import EngineCache
from gpuopt.engine.cache_key import own_versions
from gpuopt.errors import FaultError
from gpuopt.storage import write_json

__all__ = ["KnownNetworks"]

_SCHEMA = 1


class KnownNetworks:
    """Notes of networks, beside the engines.

    Args:
        cache: Of the engines; its seal signs.
    """

    def __init__(self, cache: EngineCache) -> None:
        self._cache = cache

    def find(self, sha256: str) -> dict[str, str] | None:
        """Return what `network_key` says of the network in a file; None when it is not noted.

        Args:
            sha256: Of the file.
        """
        try:
            content = json.loads(self._path(sha256).read_text("utf-8"))
            seal = content.pop("seal")
            is_own = self._cache.seal.matches(content, seal)
            asked = (content["schema"], content["file"], content["made_by"])
            words = {str(key): str(word) for key, word in content["network"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return words if is_own and asked == (_SCHEMA, sha256, _made_by()) else None

    def remember(self, sha256: str, words: Mapping[str, str]) -> None:
        """Note a network; where that cannot be kept, it is built again the next time.

        Args:
            sha256: Of the file.
            words: Of the network's key.
        """
        if self.find(sha256) == words:
            return
        content = {
            "schema": _SCHEMA,
            "file": sha256,
            "made_by": _made_by(),
            "network": dict(words),
        }
        with contextlib.suppress(OSError, FaultError):
            self._cache.folder.mkdir(parents=True, exist_ok=True)
            seal = self._cache.seal.sign(content)
            write_json(self._path(sha256), {**content, "seal": seal})

    def _path(self, sha256: str) -> Path:
        return self._cache.folder / f"network_{sha256[:32]}.json"


@cache
def _made_by() -> dict[str, str]:
    """Name what makes a network of a file, and digest the code that does."""
    home = Path(__file__).parent
    sources = [home / "weights.py", *sorted((home.parent / "model").glob("*.py"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    return {**own_versions(), "model_code": digest.hexdigest()[:16]}
