"""Recommend the views of test-time augmentation for a trained run: worth, time, and a choice."""

import re
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.text import Text

from gpuopt.answers import print_ending, print_json
from gpuopt.configuration.settings_file import SettingsFile
from gpuopt.entry import checked, folder_words, run_command, typed_folder
from gpuopt.errors import InputError, TargetNotMetError, one_line
from gpuopt.logs import logging_to
from gpuopt.override_words import quoted
from gpuopt.run import remove_empty
from gpuopt.schema import CONF_DIR, USER_CONF_MARKER, RecommendTtaConfig, to_recommend_config
from gpuopt.storage import write_json
from gpuopt.trained_run import data_of_run, find_run
from gpuopt.tta import TestTimeAugmentation
from gpuopt.tta_options import compose_policy

if TYPE_CHECKING:
    from gpuopt.session.recommendation import TtaRecommendation
    from gpuopt.tta.frontier import ScoredPolicy

__all__ = ["main"]

_SCHEMA = 1
_PLAIN_PATH = re.compile(r"[\w./-][\w./ -]*[\w./-]|[\w.]")
# Settings, by the first part of their keys, that predicting and recommending have in common.
_SHARED = ("gpu", "precision", "batch_size", "num_workers", "cache_dir")
_OF_ABSENT_CARDS = ("gpu.memory_gib",)


def main() -> None:
    """Run `gpuopt recommend_tta`."""
    run_command("recommend_tta", _recommend, leaves_files=True)


def _recommend(composed: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    config = to_recommend_config(checked(composed))
    try:
        file = _place_file(config.save_config)
        policies = [compose_policy(name) for name in config.policies]
        _check_run(config.run)
        with logging_to(None):
            shortfall = _answer(config, policies, folder, file)
    except BaseException:
        remove_empty(folder)
        raise
    if shortfall is not None:
        raise TargetNotMetError(shortfall)


def _answer(
    config: RecommendTtaConfig,
    policies: Sequence[TestTimeAugmentation],
    folder: Path,
    file: SettingsFile | None,
) -> str | None:
    """Find, write and print the recommendation; returns why there is none."""
    # Only now: torch and Lightning take seconds to import, and bad input ends before.
    from gpuopt.recommend_answer import recommend_for_run

    answer = recommend_for_run(config, policies, show_progress=sys.stderr.isatty())
    chosen = answer.recommended.chosen
    policy = None if chosen is None else _as_policy(chosen.scored, file)
    written = [folder / "recommendation.json", folder / "frontier.png"]
    if file is not None and policy is not None:
        file.create(_text(policy, answer.answer))
        written.append(file.path)
    is_named = file is not None or (chosen is not None and chosen.scored.is_preset)
    command = None if policy is None else _command(answer.run, policy, is_named=is_named)
    content = {
        "schema": _SCHEMA,
        **answer.as_dict(),
        "written": [str(path) for path in written],
        "command": command,
    }
    write_json(written[0], content)
    _draw(answer, written[1])
    if config.format == "json":
        print_json(content)
    else:
        _print_table(answer, written, command)
    return answer.shortfall


def _draw(answer: "TtaRecommendation", path: Path) -> None:
    from gpuopt.report import frontier_figure, save_png

    evidence = answer.time.evidence
    figure = frontier_figure(
        answer.points,
        title="Test-time augmentation: time and macro-F1",
        subtitle=(
            f"{answer.model_name}, {answer.images} images, {evidence} time; 95% intervals; filled: "
            "on the frontier"
        ),
        target_minutes=answer.target_minutes,
        min_f1=answer.min_f1,
    )
    save_png(figure, path)


def _print_table(answer: "TtaRecommendation", written: Sequence[Path], command: str | None) -> None:
    from gpuopt.session.console import make_console
    from gpuopt.session.recommendation_table import recommendation_table

    console = make_console()
    for choice in answer.choices:
        console.print(Text(str(choice)), soft_wrap=True)
    console.print(recommendation_table(answer))
    print_ending(console, written, command)


def _check_run(name: str) -> None:
    """Refuse what has no validation images, before torch is imported."""
    place = find_run(name)
    if not place.is_dir():
        raise InputError(f"run={name} is a file without validation images: name its run's folder")
    data_of_run(place)


def _place_file(name: str | None) -> SettingsFile | None:
    if name is None:
        return None
    return SettingsFile.place(
        "tta", name, shipped=CONF_DIR, marker=USER_CONF_MARKER, given=typed_folder()
    )


def _as_policy(scored: "ScoredPolicy", file: SettingsFile | None) -> dict[str, Any]:
    return {
        "name": scored.name if file is None else file.name,
        "merge": scored.merge,
        "chunk_size": "auto",
        "views": [view.mapping for view in scored.views],
    }


def _text(policy: dict[str, Any], why: str) -> str:
    head = f"# By gpuopt recommend_tta on {date.today().isoformat()}.\n# {one_line(why)}\n"
    return head + yaml.safe_dump(policy, sort_keys=False, allow_unicode=True)


def _command(run: str, policy: dict[str, Any], *, is_named: bool) -> str:
    """Word the one command that predicts with the answer, as it was timed.

    Args:
        run: Where it lies: the latest one may be another when the command is called.
        policy: What is recommended.
        is_named: Whether it is an option of `tta=`.
    """
    words = ["gpuopt", "predict", *folder_words(), f"run={_value(run)}"]
    words += [*_typed_for_predict(), "engine=eager"]
    if is_named:
        return shlex.join([*words, f"tta={policy['name']}"])
    views = ",".join(
        "{" + ",".join(f"{key}:{str(value).lower()}" for key, value in view.items()) + "}"
        for view in policy["views"]
    )
    return shlex.join([*words, f"tta.name={policy['name']}", f"tta.views=[{views}]"])


def _value(path: str) -> str:
    """Write a path in Hydra's grammar, quoted where that is needed."""
    return path if _PLAIN_PATH.fullmatch(path) else quoted(path)


def _typed_for_predict() -> list[str]:
    """Take what was typed about the device and the loading, which `gpuopt predict` takes too."""
    keys = {str(w): str(w).lstrip("+~").partition("=")[0] for w in HydraConfig.get().overrides.task}
    return [
        word
        for word, key in keys.items()
        if key.partition(".")[0] in _SHARED and key not in _OF_ABSENT_CARDS
    ]


if __name__ == "__main__":
    main()
