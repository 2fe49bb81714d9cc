"""What views are worth to three networks: macro-F1 on the same test documents, by disturbance.

EfficientNet-B3 and ConvNeXt-Base are trained here from random weights, as no package holds
pretrained ones; the quickstart's model starts from its packaged ones. All train on the same
documents with the same split. Each view is predicted once, and every policy is put together from
that.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.commands import run_timed
from benchmarks.record import Row, add_common_arguments, format_rows, save
from gpuopt.build import build
from gpuopt.config import compose_settings
from gpuopt.hardware import load_catalogue
from gpuopt.measure import bootstrap_interval, macro_f1, paired_bootstrap_difference
from gpuopt.run import read_config
from gpuopt.schema import CONF_DIR, to_predict_config
from gpuopt.session.forward_pass import autocast_of
from gpuopt.session.pass_plan import plan_passes
from gpuopt.session.prediction import PredictionSetup, find_checkpoint
from gpuopt.session.weights import load_described
from gpuopt.storage.checkpoint import read_checkpoint
from gpuopt.trained_run import data_of_run
from gpuopt.tta import TestTimeAugmentation, View, score_views
from gpuopt.tta.held_out import HeldOutScores

__all__ = ["ScoredRun", "main", "score_rows"]

_POLICIES = ("none", "essential", "comprehensive", "doc15")
_COMMON = ("tta=none", "logger=none")  # of the training: views are tried afterwards
_RANDOM = (
    "model.pretrained=false",
    "model.learning_rate=0.001",
    "model.head_learning_rate_ratio=1.0",
    "global_batch_size=64",
)
_TRAININGS = {
    "quickstart": ("mode=quickstart",),
    "efficientnet_b3": ("mode=basic", *_RANDOM),
    "convnext_base": ("mode=highperf", *_RANDOM),
}
_QUICK = (
    *("model=timm", "model.name=test_vit", "model.pretrained=false", "image_size=32"),
    *("data.drawn_size=64", "data.train_count=100", "data.test_count=40", "trainer.max_steps=2"),
)
_WEIGHTS = {"random": "random initial weights", "package": "packaged weights", "hub": "pretrained"}
_TRAINED_WITH = {"rotation90": "turns", "flip": "mirrors"}


@dataclass(frozen=True, eq=False)
class ScoredRun:
    """What a trained model says about every view of the test images.

    Attributes:
        setting: The model and its training in words.
        scores: Log-probabilities by view.
        groups: Mask [n] of the images of each disturbance; an image may be in several.
    """

    setting: str
    scores: HeldOutScores
    groups: Mapping[str, NDArray[np.bool_]]


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.models, arguments.device = ["quickstart"], "cpu"
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.models is None:
        arguments.models = list(_TRAININGS) if arguments.device == "cuda" else ["quickstart"]
    policies = [_policy(name) for name in _POLICIES]
    rows: list[Row] = []
    details: dict[str, Any] = {}
    path = arguments.output
    with tempfile.TemporaryDirectory() as name:
        for model in arguments.models:
            is_given = model == "quickstart" and arguments.run is not None
            run = arguments.run if is_given else _train(model, Path(name), arguments)
            scored = _score(run, policies, arguments.device, _cache(Path(name), arguments))
            found = score_rows(scored, policies)
            print(format_rows(found), flush=True)
            rows += found
            details[model] = json.loads((run / "results.json").read_text("utf-8"))
            del details[model]["machine"]  # which says more of this one than the result's own
            path = save("tta_scores", rows, arguments, parser, details)
    return Path(path)


def score_rows(
    run: ScoredRun, policies: Sequence[TestTimeAugmentation], *, resamples: int = 2000
) -> list[Row]:
    """Turn scores into macro-F1 without views, and what each policy adds, in percentage points.

    Args:
        run: The scores.
        policies: Whose views were scored; one that is the image alone has no gain.
        resamples: Of the bootstrap.
    """
    targets = run.scores.targets
    everything = {"": np.ones(len(targets), bool)}
    parts = {**everything, **{f", {name}": mask for name, mask in run.groups.items()}}
    parts = {name: mask for name, mask in parts.items() if mask.any()}
    plain = run.scores.classes_by((View(),))
    rows = []
    for part, mask in parts.items():
        found = bootstrap_interval(targets[mask], plain[mask], macro_f1, resamples=resamples)
        setting = f"{run.setting}, {mask.sum()} images"
        rows.append(
            Row(f"macro-F1, tta=none{part}", setting, found.value, "", found.low, found.high)
        )
    for policy in policies:
        if policy.is_single_view:
            continue
        classes = run.scores.classes_by(policy.parsed_views(), policy.merge)
        for part, mask in parts.items():
            gain = paired_bootstrap_difference(
                targets[mask], plain[mask], classes[mask], macro_f1, resamples=resamples
            )
            setting = f"{run.setting}, {mask.sum()} images"
            bounds = (100 * bound for bound in (gain.value, gain.low, gain.high))
            value, low, high = bounds
            rows.append(
                Row(f"gain of tta={policy.name} in macro-F1{part}", setting, value, "pp", low, high)
            )
    return rows


def _train(model: str, folder: Path, arguments: argparse.Namespace) -> Path:
    """Train a network in a process of its own and return its run folder."""
    place = folder / model
    words = [*_TRAININGS[model], *_COMMON, f"run={place}"]
    if model != "quickstart":
        words.append(f"trainer.max_epochs={arguments.epochs}")
    if arguments.quick:
        words += _QUICK
    words += _cache_words(folder, arguments)
    if arguments.device == "cpu":
        words.append("gpu=cpu")
    print(f"training {model}: {' '.join(words)}", flush=True)
    done = run_timed([sys.executable, "-m", "gpuopt.train", *words], folder)
    if done.exit_code:
        raise RuntimeError(f"the training of {model} failed: {done.last_line}")
    print(f"trained {model} in {done.duration_s:.0f} s", flush=True)
    return place


def _cache(folder: Path, arguments: argparse.Namespace) -> str | None:
    """Return the folder of drawn images; the user's own, except for tests."""
    return str(folder / "cache") if arguments.quick else None


def _cache_words(folder: Path, arguments: argparse.Namespace) -> Iterator[str]:
    if (cache := _cache(folder, arguments)) is not None:
        yield f"cache_dir={cache}"


def _policy(name: str) -> TestTimeAugmentation:
    return to_predict_config(compose_settings("predict", [f"tta={name}"])).tta


def _score(
    run: Path, policies: Sequence[TestTimeAugmentation], device: str, cache_dir: str | None
) -> ScoredRun:
    """Predict every view of all policies on the run's test images, each once."""
    checkpoint = find_checkpoint(run)
    model, description = load_described(read_checkpoint(checkpoint), str(checkpoint))
    parsed = [view for policy in policies for view in policy.parsed_views()]
    views = tuple(dict.fromkeys([View(), *(View(view.operations) for view in parsed)]))
    config = to_predict_config(compose_settings("predict", ["gpu=cpu"] if device == "cpu" else []))
    setup = PredictionSetup.choose(
        description,
        preset=config.gpu,
        catalogue=load_catalogue(CONF_DIR / "gpu"),
        precision="auto",
        batch_size="auto",
        num_workers="auto",
        cache_dir=cache_dir,
    )
    plan = plan_passes(
        setup,
        TestTimeAugmentation("all", [view.mapping for view in views]),
        description,
        models=1,
        weights_bytes=sum(tensor.nbytes for tensor in model.parameters()),
        cache_dir=cache_dir,
    )
    node, split = data_of_run(run)
    data = build(
        node,
        "data",
        image_size=description.image_size,
        micro_batch_size=setup.batch_size,
        global_batch_size=setup.batch_size,
        num_workers=setup.num_workers,
        **split,
        cache_dir=cache_dir,
    )
    data.prepare_data()
    data.setup()
    began = time.perf_counter()
    with setup.applied():
        model = model.to(setup.device)
        found = score_views(
            data.test_dataloader(),
            model,
            views,
            device=model.mean.device,
            chunk_size=plan.chunk_size,
            autocast=autocast_of(setup.precision, model.mean.device),
        )
    took_s = time.perf_counter() - began
    print(f"{len(found.ids)} images x {len(views)} views in {took_s:.0f} s", flush=True)
    scores = HeldOutScores(views, list(found.log_probabilities), found.targets)
    groups = {name: mask[found.ids] for name, mask in data.condition_groups().items()}
    return ScoredRun(_in_words(run, description.model, description.image_size), scores, groups)


def _in_words(run: Path, model: str, image_size: int) -> str:
    results = json.loads((run / "results.json").read_text("utf-8"))
    training = results["training"]
    augmentation = read_config(run)["data"]["augmentation"]
    seen = [word for key, word in _TRAINED_WITH.items() if augmentation.get(key)]
    weights = _WEIGHTS[training["initial_weights"]]
    return (
        f"{model} {image_size} px, {weights}, {training['epochs']} epochs with "
        f"{' and '.join(seen) or 'neither turns nor mirrors'}, {results['data']['name']}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks tta_scores", description=__doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        choices=list(_TRAININGS),
        help="(default: all on a GPU, quickstart on a CPU)",
    )
    parser.add_argument(
        "--run", type=Path, help="a trained quickstart run, which is not trained again"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=40,
        help="of the networks that start from random weights (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add_common_arguments(parser)
    return parser
