"""One question to NVML after another, where every single one can fail."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

__all__ = ["NvmlQuery"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# From nvml.h: nvmlReturn_t. What a device or a driver cannot tell is not asked for again.
_INVALID_ARGUMENT, _NOT_SUPPORTED, _FUNCTION_NOT_FOUND = 2, 3, 13
# nvmlValueType_t and the member of the union that holds such a value.
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class NvmlQuery:
    """Asks about one device. What fails is None, and each cause is reported once.

    Args:
        nvml: The module `pynvml`, initialised.
        handle: NVML's handle of the device.
        index: Its number in messages.
    """

    def __init__(self, nvml: Any, handle: Any, index: int) -> None:
        self._nvml = nvml
        # What the library raises for an old driver's lists of processes; no NVMLError.
        mismatch: type[Exception] = getattr(nvml, "NVMLLibraryMismatchError", AttributeError)
        self._mismatch = mismatch
        self._handle = handle
        self._index = index
        self._reported: set[tuple[str, int]] = set()
        self._lacking: set[tuple[Any, ...]] = set()

    def get(
        self,
        query: str,
        *arguments: Any,
        convert: Callable[[Any], _T] | None = None,
        rare: bool = False,
    ) -> Any:
        """Ask for one value.

        Args:
            query: Name of the function.
            arguments: After the handle.
            convert: Applied to the answer.
            rare: Whether many cards lack it, so that its absence is no news.

        Returns:
            None when it failed.
        """
        if (query, *arguments) in self._lacking:
            return None
        try:
            value = getattr(self._nvml, query)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError, self._mismatch) as error:
            is_lack = isinstance(error, AttributeError | self._mismatch) or _code(error) in (
                _NOT_SUPPORTED,
                _FUNCTION_NOT_FOUND,
            )
            if is_lack:
                self._lacking.add((query, *arguments))
            self._report(query, error, logging.INFO if rare and is_lack else logging.WARNING)
            return None
        return value if convert is None else convert(value)

    def fields(self, numbers: Sequence[int]) -> dict[int, float]:
        """Ask for several of NVML's field values at once.

        Returns:
            By number; what the device does not have is left out.
        """
        wanted = tuple(n for n in numbers if ("field", n) not in self._lacking)
        if not wanted:
            return {}
        values: dict[int, float] = {}
        for value in self.get("nvmlDeviceGetFieldValues", wanted, rare=True) or ():
            if value.nvmlReturn == 0 and 0 <= value.valueType < len(_MEMBERS):
                values[value.fieldId] = getattr(value.value, _MEMBERS[value.valueType])
            elif value.nvmlReturn in (_INVALID_ARGUMENT, _NOT_SUPPORTED):
                self._lacking.add(("field", value.fieldId))
        return values

    def _report(self, query: str, error: Exception, level: int) -> None:
        cause = str(error)
        if (cause, level) not in self._reported:
            self._reported.add((cause, level))
            _log.log(
                level,
                "GPU %d: %s (first seen in %s); fields it affects are unavailable",
                self._index,
                cause,
                query,
            )


def _code(error: Exception) -> int | None:
    """Return NVML's number of an error."""
    code: int | None = getattr(error, "value", None)
    return code
