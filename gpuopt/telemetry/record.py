"""A sample as plain values, for a log and a browser, and back.

A record says its schema, so that a reader can tell whether it understands it. A value that was
unavailable is null. What a reader does not know is left out, so fields may be added.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from gpuopt.hardware import DeviceProcess, DeviceReading
from gpuopt.telemetry.sample import HostReading, Sample

__all__ = ["SCHEMA", "from_record", "to_record"]

SCHEMA = 1
_T = TypeVar("_T")

_TEXTS = {"name", "uuid"}
# A record may come from anybody.
_MOST_ENTRIES = 10_000  # of a list or mapping
_LARGEST = 1e30
_LATEST_S = 1e11


def to_record(sample: Sample) -> dict[str, Any]:
    """Turn a sample into values that JSON knows; what is not finite becomes null."""
    return {
        "schema": SCHEMA,
        "time_s": sample.time_s,
        "devices": [_finite(asdict(reading)) for reading in sample.devices],
        "host": _finite(asdict(sample.host)),
        "throttled_s": {
            index: _finite(reasons) for index, reasons in _named(sample.throttled_s).items()
        },
        "training": _finite(sample.training),
        "number": sample.number,
        "used_j": _finite(_named(sample.used_j)),
    }


def from_record(record: Any) -> Sample:
    """Turn a record back into a sample.

    Args:
        record: What JSON was read as; anything.

    Raises:
        ValueError: When it is no record of this schema.
    """
    if not isinstance(record, Mapping) or record.get("schema") != SCHEMA:
        raise ValueError("no record of this schema")
    time_s = _number(record.get("time_s"))
    if time_s is None or not 0 <= time_s < _LATEST_S:
        raise ValueError("no time")
    devices = tuple(_reading(device) for device in _list(record.get("devices")) or ())
    if len({reading.index for reading in devices}) < len(devices):
        raise ValueError("a device twice")
    number = _number(record.get("number"))
    return Sample(
        time_s=time_s,
        devices=devices,
        host=HostReading(**_known(HostReading, record.get("host"))),
        throttled_s=_indexed(_entries(record.get("throttled_s"), _numbers)),
        training=_numbers(record.get("training")),
        number=number if isinstance(number, int) else 0,
        used_j=_indexed(_numbers(record.get("used_j"))),
    )


def _reading(record: Any) -> DeviceReading:
    known = _known(DeviceReading, record)
    index = known.get("index")
    if not isinstance(index, int) or index < 0:
        raise ValueError("a device without index")
    counters = record.get("violation_s")
    reasons, processes = _list(record.get("throttle_reasons")), _list(record.get("processes"))
    known["violation_s"] = _numbers(counters) if isinstance(counters, Mapping) else None
    known["throttle_reasons"] = None if reasons is None else [_text(word) for word in reasons]
    known["processes"] = None if processes is None else _processes(processes)
    return DeviceReading(**known)


def _processes(records: list[Any]) -> list[DeviceProcess]:
    found = (_known(DeviceProcess, record) for record in records)
    return [DeviceProcess(**known) for known in found if isinstance(known.get("pid"), int)]


def _known(kind: type[Any], record: Any) -> dict[str, Any]:
    """Take the texts and numbers of a record that a dataclass has a field for."""
    if not isinstance(record, Mapping):
        return {}
    known: dict[str, Any] = {}
    for field in fields(kind):
        value = record.get(field.name)
        if field.name in _TEXTS:
            known[field.name] = _text(value) if isinstance(value, str) else None
        elif (number := _number(value)) is not None:
            known[field.name] = number
    return known


def _entries(record: Any, convert: Callable[[Any], _T]) -> dict[str, _T]:
    if not isinstance(record, Mapping) or len(record) > _MOST_ENTRIES:
        return {}
    return {_text(key): convert(value) for key, value in record.items()}


def _text(value: Any) -> str:
    """Spell out the halves of characters that JSON can escape and no reader can write."""
    return str(value).encode(errors="backslashreplace").decode()


def _numbers(record: Any) -> dict[str, float]:
    found = _entries(record, _number)
    return {key: number for key, number in found.items() if number is not None}


def _number(value: Any) -> Any:
    """Return a finite number, whole ones as such; None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) < _LARGEST else None  # NaN is not below either


def _named(values: Mapping[int, _T]) -> dict[str, _T]:
    """Write devices' indices as JSON's keys."""
    return {str(index): value for index, value in values.items()}


def _indexed(values: Mapping[str, _T]) -> dict[int, _T]:
    return {int(key): value for key, value in values.items() if key.isdecimal() and len(key) < 8}


def _list(value: Any) -> list[Any] | None:
    return value if isinstance(value, list) and len(value) <= _MOST_ENTRIES else None


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
