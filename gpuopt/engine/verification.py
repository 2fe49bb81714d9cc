"""What a proof of an engine found, in figures, and the bounds that decide on it."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gpuopt.engine.protocol import Engine
from gpuopt.storage import write_json
from gpuopt.storage.sidecar import sha256_of

__all__ = [
    "BatchProof",
    "Bounds",
    "Flip",
    "Verification",
    "provider_of",
    "read_report",
    "report_path",
    "write_report",
]

_SCHEMA = 1
_MOST_REPORT_BYTES = 64 << 20


@dataclass(frozen=True)
class Bounds:
    """What an engine has to keep to.

    Attributes:
        least_images: Fewer prove nothing. A caller who knows better gives another number.
        least_agreement: Share of images with the class of the reference, at each batch size.
        most_flip_margin: An image may change its class only where the reference's two best
            probabilities lie this close.
        most_kl: Mean Kullback-Leibler divergence of the probabilities from the reference's, nats.
        most_row_difference: How far a probability of an image may move when other images
            surround it. Half precision sums in another order and moves it by some hundredths at
            most; a row that was mixed up moves by far more.
    """

    least_images: int = 500
    least_agreement: float = 0.999
    most_flip_margin: float = 0.02
    most_kl: float = 1e-4
    most_row_difference: float = 0.05


@dataclass(frozen=True)
class Flip:
    """An image whose class is another one than the reference's.

    Attributes:
        image: Its name.
        reference_class: The reference's class.
        engine_class: The engine's class.
        margin: Between the two best probabilities of the reference.
    """

    image: str
    reference_class: int
    engine_class: int
    margin: float


@dataclass(frozen=True)
class BatchProof:
    """All images in random order at one batch size.

    The figures are None where logits are not finite.

    Attributes:
        batch_size: Images per call; the last call may hold fewer.
        not_finite_images: Images with a logit that is infinite or no number.
        max_logit_difference: Largest difference of a logit from the reference's.
        kl: Mean divergence from the reference in nats.
        agreement: Share of images with the reference's class.
        flips: The others.
        identical_row_difference: Largest difference of a probability in a batch of one image
            repeated, from that image elsewhere.
    """

    batch_size: int
    not_finite_images: int
    max_logit_difference: float | None = None
    kl: float | None = None
    agreement: float | None = None
    flips: tuple[Flip, ...] = ()
    identical_row_difference: float | None = None


@dataclass(frozen=True)
class Verification:
    """The proof of an engine.

    Attributes:
        accepted: Whether it may be used in place of the reference.
        reasons: What failed, one clause each; empty when accepted.
        engine: Backend.
        precision: Of the bulk of its layers.
        images: Names of the images that it was proved on.
        images_sha256: Digest of their pixels.
        batches: The figures of each batch size.
        row_difference: How far a probability of one image moved between batches of other sizes
            and neighbours; None where logits are not finite.
        bounds: What was asked.
        seed: Of the random orders.
        device: Where it ran.
        versions: Of the libraries.
        provider: Of ONNX Runtime, which computes the file its own way; None for other backends.
    """

    accepted: bool
    reasons: tuple[str, ...]
    engine: str
    precision: str
    images: tuple[str, ...]
    images_sha256: str
    batches: tuple[BatchProof, ...]
    row_difference: float | None
    bounds: Bounds
    seed: int
    device: str
    versions: dict[str, str] = field(default_factory=dict)
    provider: str | None = None

    def is_of(self, engine: Engine) -> bool:
        """Say whether a loaded engine runs as the one that was proved."""
        return self.provider == provider_of(engine)

    @property
    def max_logit_difference(self) -> float | None:
        """The largest of all batch sizes; None where one of them is not finite."""
        return _largest([batch.max_logit_difference for batch in self.batches])

    @property
    def kl(self) -> float | None:
        """The largest mean divergence of all batch sizes, in nats."""
        return _largest([batch.kl for batch in self.batches])

    @property
    def agreement(self) -> float | None:
        """The smallest of all batch sizes."""
        found = [batch.agreement for batch in self.batches if batch.agreement is not None]
        return min(found) if len(found) == len(self.batches) else None

    @property
    def row_consistency(self) -> bool:
        """Whether the answer to an image does not depend on the images beside it."""
        rows = [self.row_difference, *(batch.identical_row_difference for batch in self.batches)]
        largest = _largest(rows)
        return largest is not None and largest <= self.bounds.most_row_difference

    def __str__(self) -> str:
        """Word the outcome as one line."""
        start = f"{self.engine} {self.precision}"
        if not self.accepted:
            return f"{start} rejected: {'; '.join(self.reasons)}"
        return (
            f"{start} verified on {len(self.images)} images: {self.agreement:.2%} the same class, "
            f"KL {self.kl:.1e}, logits within {self.max_logit_difference:.1e}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, with the figures over all batch sizes beside those of each."""
        summary = ("max_logit_difference", "kl", "agreement", "row_consistency")
        return {
            "schema": _SCHEMA,
            **asdict(self),
            **{name: getattr(self, name) for name in summary},
        }


def provider_of(engine: Engine) -> str | None:
    """Return what runs an engine's file where there is a choice, as ONNX Runtime has; else None."""
    found = getattr(engine, "provider", None)
    return found if isinstance(found, str) else None


def report_path(engine_file: Path) -> Path:
    """Say where the report on an engine lies: beside it."""
    return engine_file.with_name(f"{engine_file.name}.verification.json")


def write_report(engine_file: Path, verification: Verification) -> Path:
    """Write the report beside an engine, bound to the engine's content.

    Returns:
        The report.

    Raises:
        OSError: When the file is missing or the folder cannot be written.
    """
    path = report_path(engine_file)
    write_json(path, {"engine_sha256": sha256_of(engine_file), **verification.as_dict()})
    return path


def read_report(engine_file: Path, sha256: str | None = None) -> Verification | None:
    """Read the report beside an engine.

    Args:
        engine_file: The engine.
        sha256: Of its content, where it is known; None digests it.

    Returns:
        None when there is none, it is damaged, or it speaks of other content than the file's.
    """
    path = report_path(engine_file)
    try:
        if path.stat().st_size > _MOST_REPORT_BYTES:
            return None
        content = json.loads(path.read_text("utf-8"))
        if content["schema"] != _SCHEMA:
            return None
        if content["engine_sha256"] != (sha256 or sha256_of(engine_file)):
            return None
        return _verification(content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _verification(content: dict[str, Any]) -> Verification:
    known = {item.name for item in fields(Verification)}
    batches = tuple(
        BatchProof(**{**batch, "flips": tuple(Flip(**flip) for flip in batch["flips"])})
        for batch in content["batches"]
    )
    return Verification(
        **{
            **{name: value for name, value in content.items() if name in known},
            "reasons": tuple(content["reasons"]),
            "images": tuple(content["images"]),
            "batches": batches,
            "bounds": Bounds(**content["bounds"]),
        }
    )


def _largest(values: list[float | None]) -> float | None:
    """Return the largest, or None where a figure is missing."""
    found = [value for value in values if value is not None]
    return max(found) if found and len(found) == len(values) else None
