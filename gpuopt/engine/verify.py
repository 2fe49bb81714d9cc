"""Prove that an engine answers as the network that it was made from, before it is used.

An engine is a program that a compiler wrote. It may overflow in half precision, mix up the rows
of a batch, or be wrong at the sizes that it was not tuned for, all without an error. So it answers
real images at several batch sizes in random orders, and every answer is compared.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from gpuopt import __version__
from gpuopt.engine.protocol import Engine
from gpuopt.engine.verification import BatchProof, Bounds, Flip, Verification, provider_of
from gpuopt.errors import FaultError, InputError

__all__ = ["library_versions", "proof_batch_sizes", "reference_logits", "verify"]

_REFERENCE_BATCH = 32
_PACKAGES = ("torch", "timm", "onnx", "onnxruntime", "onnxruntime-gpu", "torch-tensorrt")
_BOUNDS = Bounds()


def proof_batch_sizes(optimal: int, maximum: int) -> tuple[int, ...]:
    """Name the batch sizes that an engine is proved at: 1, an odd one, optimal, maximum.

    Args:
        optimal: What the engine is tuned for.
        maximum: The most that it takes.
    """
    odd = (2 * maximum // 3) | 1
    return tuple(sorted({1, min(odd, maximum), optimal, maximum}))


def reference_logits(
    reference: Callable[[Tensor], Tensor], images: Tensor, device: torch.device
) -> Tensor:
    """Compute what engines are compared with, once for all of them.

    Args:
        reference: The network in fp32; maps uint8 images on the device to logits [n, classes].
        images: uint8 [n, 3, s, s], on any device.
        device: Of the network.

    Returns:
        float32 [n, classes] on the host.

    Raises:
        InputError: When logits are not finite.
    """
    with torch.inference_mode(), _without_tf32():
        parts = [
            reference(images[first : first + _REFERENCE_BATCH].to(device)).float().cpu()
            for first in range(0, len(images), _REFERENCE_BATCH)
        ]
    logits = torch.cat(parts)
    broken = len(images) - int(torch.isfinite(logits).all(1).sum())
    if broken:
        raise InputError(
            f"the model itself gives logits that are not finite for {broken} of {len(images)} "
            "images: no engine can be compared with it; train it again"
        )
    return logits


def verify(
    engine: Engine,
    reference: Callable[[Tensor], Tensor] | Tensor,
    images: Tensor,
    *,
    batch_sizes: Sequence[int],
    seed: int = 0,
    names: Sequence[str] | None = None,
    bounds: Bounds = _BOUNDS,
) -> Verification:
    """Compare an engine with the network that it was made from.

    Args:
        engine: What is to be proved.
        reference: The network in fp32, which maps uint8 images on the engine's device to logits
            [n, classes]; or its logits of the images, see `reference_logits`.
        images: Real ones of the task, uint8 [n, 3, s, s], on any device.
        batch_sizes: See `proof_batch_sizes`; none above the engine's maximum.
        seed: Of the orders in which the images come.
        names: One per image, for the report; None counts them.
        bounds: What has to hold.

    Returns:
        The figures, and whether they are within the bounds.

    Raises:
        InputError: Without images, or when the reference itself is not finite.
        FaultError: When the engine answers with another number of rows or classes.
    """
    known = tuple(names) if names is not None else tuple(map(str, range(len(images))))
    if len(known) != len(images) or not len(images):
        raise InputError(f"{len(images)} images with {len(known)} names prove no engine")
    if isinstance(reference, Tensor):
        expected = reference
    else:
        expected = reference_logits(reference, images, engine.device)
    trial = _Trial(engine, images, expected, known, seed)
    batches = tuple(trial.run(size) for size in sorted(set(batch_sizes)))
    batches = tuple(trial.with_identical_rows(batch) for batch in batches)
    faults = (*_faults(batches, bounds), *trial.row_faults(bounds))
    reasons = (*_shortage(len(images), bounds), *faults)
    return Verification(
        not reasons,
        reasons,
        engine.name,
        engine.precision,
        known,
        hashlib.sha256(images.cpu().contiguous().numpy().data).hexdigest(),
        batches,
        trial.row_difference,
        bounds,
        seed,
        str(engine.device),
        library_versions(),
        provider_of(engine),
    )


class _Trial:
    """The passes of a proof, and how far each image's probabilities moved between them."""

    def __init__(
        self, engine: Engine, images: Tensor, expected: Tensor, names: Sequence[str], seed: int
    ) -> None:
        self._engine = engine
        self._images = images
        self._expected = expected
        self._names = names
        self._seed = seed
        # Lowest and highest probability of each image and class over all passes.
        self._low: Tensor | None = None
        self._high: Tensor | None = None
        self._is_finite = True

    def run(self, batch_size: int) -> BatchProof:
        """Send all images through in a random order."""
        count = len(self._images)
        generator = torch.Generator().manual_seed(self._seed + batch_size)
        order = torch.randperm(count, generator=generator)
        # At least one full batch, if need be of images that were there before.
        order = order.repeat(-(-batch_size // count)) if batch_size > count else order
        logits = torch.empty_like(self._expected)
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            logits[rows] = self._answer(self._images[rows])
        broken = count - int(torch.isfinite(logits).all(1).sum())
        if broken:
            self._is_finite = False
            return BatchProof(batch_size, broken)
        self._note_probabilities(logits)
        flips = self._flips(logits)
        return BatchProof(
            batch_size,
            0,
            float((logits - self._expected).abs().max()),
            _mean_kl(self._expected, logits),
            1.0 - len(flips) / count,
            flips,
        )

    def with_identical_rows(self, batch: BatchProof) -> BatchProof:
        """Fill a batch with one image, whose row must come back as often, as it was elsewhere."""
        if not self._is_finite or self._low is None or self._high is None:
            return batch
        row = self._seed % len(self._images)
        same = self._images[row : row + 1].expand(batch.batch_size, -1, -1, -1)
        found = self._answer(same.contiguous()).softmax(1)
        furthest = torch.maximum((found - self._low[row]).abs(), (found - self._high[row]).abs())
        largest = float(furthest.max())  # not a number when a probability is none
        return replace(batch, identical_row_difference=largest if largest == largest else 1.0)

    @property
    def row_difference(self) -> float | None:
        """How far a probability of one image moved between passes."""
        if not self._is_finite or self._low is None or self._high is None:
            return None
        return float((self._high - self._low).max())

    def row_faults(self, bounds: Bounds) -> tuple[str, ...]:
        """Name the image that moved too far."""
        found = self.row_difference
        if found is None or found <= bounds.most_row_difference:
            return ()
        assert self._low is not None  # as there is a difference
        assert self._high is not None
        row = int((self._high - self._low).amax(1).argmax())
        return (
            f"a row depends on its neighbours: a probability of {self._names[row]} moves by "
            f"{found:.3f} with the batch (at most {bounds.most_row_difference:g})",
        )

    def _answer(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits = self._engine(images.to(self._engine.device)).float().cpu()
        wanted = (len(images), self._expected.shape[1])
        if tuple(logits.shape) != wanted:  # which an assignment could spread over the rows
            raise FaultError(
                f"{self._engine.name} returns logits of shape {tuple(logits.shape)} instead of "
                f"{wanted}: build the engine for this model"
            )
        return logits

    def _note_probabilities(self, logits: Tensor) -> None:
        found = logits.softmax(1)
        self._low = found if self._low is None else torch.minimum(self._low, found)
        self._high = found if self._high is None else torch.maximum(self._high, found)

    def _flips(self, logits: Tensor) -> tuple[Flip, ...]:
        probabilities = self._expected.softmax(1)
        best = probabilities.topk(min(2, probabilities.shape[1]), dim=1).values
        # By argmax on both sides: of equal classes it takes the same one.
        own, engines = self._expected.argmax(1), logits.argmax(1)
        margins = best[:, 0] - best[:, -1]
        return tuple(
            Flip(self._names[row], int(own[row]), int(engines[row]), float(margins[row]))
            for row in (own != engines).nonzero().flatten().tolist()
        )


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Compute in all 24 bits: TF32 would err as much as the engine that is to be judged."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _mean_kl(expected: Tensor, logits: Tensor) -> float:
    """Return the mean divergence of the logits' distribution from the expected one, in nats."""
    own = expected.double().log_softmax(1)
    return float((own.exp() * (own - logits.double().log_softmax(1))).sum(1).mean().clamp_min(0))


def _shortage(images: int, bounds: Bounds) -> tuple[str, ...]:
    if images >= bounds.least_images:
        return ()
    return (f"{images} images prove nothing: at least {bounds.least_images} are needed",)


def _faults(batches: Sequence[BatchProof], bounds: Bounds) -> tuple[str, ...]:
    """Word what is out of bounds, the worst batch size for each figure."""
    if broken := [batch for batch in batches if batch.not_finite_images]:
        worst = max(broken, key=lambda batch: batch.not_finite_images)
        return (
            f"logits of {worst.not_finite_images} images are not finite at batch size "
            f"{worst.batch_size}: an overflow in its precision",
        )
    faults = []
    least = min(batches, key=lambda batch: batch.agreement or 0.0)
    if (least.agreement or 0.0) < bounds.least_agreement:
        faults.append(
            f"{least.agreement:.2%} have the same class at batch size {least.batch_size} "
            f"(at least {bounds.least_agreement:.2%})"
        )
    flips = [(flip, batch.batch_size) for batch in batches for flip in batch.flips]
    flip, size = max(flips, key=lambda pair: pair[0].margin, default=(None, 0))
    if flip is not None and flip.margin > bounds.most_flip_margin:
        faults.append(
            f"{flip.image} changes its class at batch size {size} against a margin of "
            f"{flip.margin:.3f} (at most {bounds.most_flip_margin:g})"
        )
    furthest = max(batches, key=lambda batch: batch.kl or 0.0)
    if not (furthest.kl or 0.0) < bounds.most_kl:
        faults.append(
            f"KL {furthest.kl:.1e} at batch size {furthest.batch_size} (below {bounds.most_kl:.0e})"
        )
    return (*faults, *_identical_faults(batches, bounds))


def _identical_faults(batches: Sequence[BatchProof], bounds: Bounds) -> tuple[str, ...]:
    worst = max(batches, key=lambda batch: batch.identical_row_difference or 0.0)
    found = worst.identical_row_difference
    if found is None or found <= bounds.most_row_difference:
        return ()
    return (
        f"{worst.batch_size} times one image come back {found:.3f} apart "
        f"(at most {bounds.most_row_difference:g})",
    )


def library_versions() -> dict[str, str]:
    """Name the libraries that an engine's answers may depend on, as far as they are installed."""
    found = {"gpuopt": __version__}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
