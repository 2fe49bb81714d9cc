"""Find an engine that is proved: the wanted one, or with more layers in fp32, or the next one."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gpuopt.choice import Choice
from gpuopt.engine.eager import Eager
from gpuopt.engine.protocol import Engine, EngineRequest, TrainedNetwork
from gpuopt.engine.verification import Bounds, Verification
from gpuopt.engine.verify import proof_batch_sizes, reference_logits, verify
from gpuopt.errors import FaultError, GpuoptError, InputError, one_line
from gpuopt.recomputation.stages import stages_of

__all__ = [
    "Attempt",
    "EngineSearch",
    "ProofImages",
    "VerifiedEngine",
    "build_verified",
    "last_stage",
    "reference_of",
]

_HALF = ("fp16", "bf16")
_SAFE = "eager"
_BOUNDS = Bounds()
_TOLERATED = 10  # times the flips: a compiler rounds otherwise, and may be luckier by as much
_LONGEST_REASON = 300


@dataclass(frozen=True)
class ProofImages:
    """Real images that engines are proved on.

    Attributes:
        images: uint8 [n, 3, s, s].
        names: One each.
    """

    images: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Attempt:
    """One step of the search.

    Attributes:
        engine: Backend.
        precision: That was asked for.
        fp32_layers: Prefixes that were kept in fp32.
        fault: Why it could not be built or run; None when it was compared.
        verification: The proof; None when there was a fault.
    """

    engine: str
    precision: str
    fp32_layers: tuple[str, ...]
    fault: str | None
    verification: Verification | None

    @property
    def is_accepted(self) -> bool:
        """Whether the engine may be used."""
        return self.verification is not None and self.verification.accepted

    def __str__(self) -> str:
        """Word what came of it as one line."""
        layers = f" ({', '.join(self.fp32_layers)} in fp32)" if self.fp32_layers else ""
        if self.verification is None:
            return f"{self.engine} {self.precision}{layers} fails: {self.fault}"
        start = f"{self.verification.engine} {self.verification.precision}"
        return f"{start}{layers}{str(self.verification).removeprefix(start)}"


@dataclass(frozen=True)
class VerifiedEngine:
    """An engine that may be used, and how it was found.

    Attributes:
        engine: Ready to be called.
        request: What it was asked to be, with the layers that had to stay in fp32.
        verification: Its proof.
        attempts: All steps, the accepted one last.
    """

    engine: Engine
    request: EngineRequest
    verification: Verification
    attempts: tuple[Attempt, ...]

    @property
    def choice(self) -> Choice:
        """The engine with its evidence."""
        rejected = len(self.attempts) - 1
        reason = str(self.attempts[-1])
        if rejected:
            reason += f"; rejected before: {rejected}"
        return Choice("engine", self.engine.name, "measured", reason)


def build_verified(
    request: EngineRequest,
    network: TrainedNetwork,
    engines: Sequence[str],
    proof: ProofImages,
    *,
    make: Callable[[str, EngineRequest], Engine],
    tell: Callable[[str], None],
    seed: int = 0,
    bounds: Bounds = _BOUNDS,
) -> VerifiedEngine:
    """Try engines until one is proved; in half precision each with more and more layers in fp32.

    Args:
        request: What is wanted.
        network: The trained network, which is the reference.
        engines: In the order of preference; `eager`, in the wanted precision and then in fp32,
            always comes last.
        proof: Real images.
        make: Builds or loads an engine by its name.
        tell: Called with one line for each step.
        seed: Of the orders of images.
        bounds: What has to hold.

    Raises:
        InputError: With too few images, or when the model itself is not finite, before anything
            is built.
        FaultError: When not even eager in fp32 is proved.
    """
    if len(proof.images) < bounds.least_images:
        raise InputError(
            f"{len(proof.images)} images cannot prove an engine: at least {bounds.least_images} "
            "of the task are needed; give more with data=image_folder data.root=FOLDER, or use "
            "engine=eager"
        )
    search = EngineSearch(request, network, proof, make=make, tell=tell, seed=seed, bounds=bounds)
    attempts: list[Attempt] = []
    for name in dict.fromkeys((*engines, _SAFE)):
        found, tried = search.prove(name)
        attempts += tried
        if found is not None:
            return replace(found, attempts=tuple(attempts))
    raise FaultError(
        f"no engine answers as the model does; the last one: {attempts[-1]}; use engine=eager and "
        "report this"
    )


class EngineSearch:
    """Tries engines for one request, each in half precision with more and more layers in fp32.

    A form in half precision that is far from the network without any compiler is given to none:
    what PyTorch tells in a second costs a compiler minutes.

    Args:
        request: What is wanted.
        network: The trained network, which is the reference.
        proof: Real images.
        make: Builds or loads an engine by its name.
        tell: Called with one line for each attempt.
        seed: Of the orders of images.
        bounds: What has to hold.

    Raises:
        InputError: When the model itself is not finite.
    """

    def __init__(
        self,
        request: EngineRequest,
        network: TrainedNetwork,
        proof: ProofImages,
        *,
        make: Callable[[str, EngineRequest], Engine],
        tell: Callable[[str], None],
        seed: int = 0,
        bounds: Bounds = _BOUNDS,
    ) -> None:
        self._request = request
        self._stage = last_stage(network.backbone)
        self._proof = proof
        self._make = make
        self._tell = tell
        self._seed = seed
        self._bounds = bounds
        self._batch_sizes = proof_batch_sizes(request.optimal_batch_size, request.max_batch_size)
        reference = reference_of(network, request.device)
        self._expected = reference_logits(reference, proof.images, request.device)
        self._network = network
        self._hopeless: dict[tuple[str, tuple[str, ...]], str | None] = {}

    def prove(self, name: str) -> tuple[VerifiedEngine | None, list[Attempt]]:
        """Try one engine in all its forms.

        Returns:
            The first form that is proved, or None, and all attempts.
        """
        attempts: list[Attempt] = []
        for request in self._forms():
            engine, attempt = self._attempt(name, request)
            attempts.append(attempt)
            self._tell(str(attempt))
            if engine is not None and attempt.verification is not None and attempt.is_accepted:
                proved = VerifiedEngine(engine, request, attempt.verification, tuple(attempts))
                return proved, attempts
            del engine  # its memory is needed for the next one
        return None, attempts

    def _forms(self) -> Iterator[EngineRequest]:
        """List what is tried, the wanted first and the safest last."""
        wanted = self._request
        yield wanted
        if wanted.precision in _HALF and self._stage:
            yield wanted.with_fp32_layers(*self._stage)
        full = replace(wanted, precision="fp32", fp32_layers=())
        if full != wanted:
            yield full

    def _attempt(self, name: str, request: EngineRequest) -> tuple[Engine | None, Attempt]:
        outcome = Attempt(name, request.precision, request.fp32_layers, None, None)
        if name != _SAFE and (reason := self._why_hopeless(request)):
            return None, replace(outcome, fault=reason)
        try:
            engine = self._make(name, request)
            sizes = [size for size in self._batch_sizes if size <= engine.max_batch_size]
            found = self._compare(engine, sizes, self._bounds)
        except Exception as error:  # compilers raise anything; the next engine is the remedy
            return None, replace(outcome, fault=_reason(error))
        return engine, replace(outcome, verification=found)

    def _why_hopeless(self, request: EngineRequest) -> str | None:
        """Say what is wrong with a form in half precision before anything is compiled."""
        form = (request.precision, request.fp32_layers)
        if request.precision in _HALF and form not in self._hopeless:
            self._hopeless[form] = self._try_in_eager(request)
        return self._hopeless.get(form)

    def _try_in_eager(self, request: EngineRequest) -> str | None:
        tolerated = _TOLERATED * (1 - self._bounds.least_agreement)
        loose = replace(self._bounds, least_agreement=1 - tolerated)
        try:
            found = self._compare(
                Eager().wrap(request, self._network), [request.optimal_batch_size], loose
            )
        except Exception:  # says nothing about what a compiler makes of it
            return None
        finally:
            if request.device.type == "cuda":  # engines have allocators of their own
                torch.cuda.empty_cache()
        if found.accepted:
            return None
        return f"not built, as even eager gives other answers: {'; '.join(found.reasons)}"

    def _compare(self, engine: Engine, batch_sizes: Sequence[int], bounds: Bounds) -> Verification:
        return verify(
            engine,
            self._expected,
            self._proof.images,
            batch_sizes=batch_sizes,
            seed=self._seed,
            names=self._proof.names,
            bounds=bounds,
        )


def last_stage(backbone: nn.Module) -> tuple[str, ...]:
    """Name the modules of the last quarter of the stages, where activations are largest.

    Args:
        backbone: Any network.

    Returns:
        Prefixes of module names; empty for a network without stages.
    """
    try:
        stages = stages_of(backbone)
    except InputError:  # a network that knows no stages
        return ()
    chosen = stages[len(stages) - math.ceil(len(stages) / 4) :]
    wanted = {id(block) for stage in chosen for block in stage}
    return tuple(name for name, module in backbone.named_modules() if id(module) in wanted)


def reference_of(network: TrainedNetwork, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the network in fp32 as a function of uint8 images on a device.

    It shares no code with the engines, so that what is wrong in all of them shows.
    """
    backbone = copy.deepcopy(network.backbone).to(device, torch.float32).eval()
    mean = torch.tensor(network.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(network.std, device=device).view(1, -1, 1, 1)

    def reference(images: Tensor) -> Tensor:
        logits: Tensor = backbone((images.float() - mean) / std)
        return logits

    return reference


def _reason(error: Exception) -> str:
    text = str(error).strip()
    kind = "" if isinstance(error, GpuoptError) else f"{type(error).__name__}: "
    return one_line(f"{kind}{text.splitlines()[0] if text else 'no reason given'}", _LONGEST_REASON)
