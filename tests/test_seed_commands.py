"""The map from the seed guide's command lines to ours: complete, consistent, and true today."""

import csv
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from gpuopt.__main__ import COMMANDS
from gpuopt.config import compose_settings
from gpuopt.configuration import leaves, translate_arguments
from gpuopt.errors import GpuoptError, InputError
from gpuopt.finding.experiment_file import ExperimentFile
from gpuopt.schema import CONF_DIR, USER_CONF_MARKER

TABLE = Path(__file__).with_name("seed_commands.csv")
TOPICS = ("runs", "memory", "inference", "see", "proof", "parallel")
COMMAND_COUNT = 95
# Every long flag in the command lines of the guide.
GUIDE_FLAGS = re.findall(
    r"\S+",
    """--accumulate_grad_batches --activities --adaptive_batch_size --adjustment_factor
    --aggressive-optimization --allreduce_algorithm --amp_opt_level --analyze-team-performance
    --analyze_dataloader --analyze_model --analyze_optimizer --auto_adjust_batch_size
    --auto_scale_lr --backend --baseline_config --batch-size --batch_size --benchmark
    --benchmark_runs --bucket_size_mb --calculate_cost_savings --calculate_performance_per_watt
    --calculate_time_savings --check-drivers --checkpoint_segments --compare_precision
    --compatibility-matrix --compile_mode --compile_model --compression_ratio --config --config_a
    --config_b --cost_model --dashboard --detailed --distributed --duration --dynamo_backend
    --effective_batch_size --enable_oom_recovery --engine_path --export_prometheus --find-optimal
    --fold --fold-results --format --gpu-memory --gpu_ids --gpu_memory_limit --gpu_model
    --gradient_accumulation_steps --gradient_compression --image-size --image_size
    --include_inference --initial_batch_size --interval --log_file --master_port --max_batch_size
    --max_epochs --max_memory_usage --measure_power_consumption --memory-safety-margin
    --memory_fraction --memory_threshold --metrics --min-batch-size --min-f1-score --mode --model
    --model-type --model_parallel --model_path --monitor_duration --monitor_memory_usage
    --multi_gpu --nproc_per_node --num_workers --offload_optimizer --oom_recovery
    --optimize_for_inference --optimized_config --output_dir --output_path --output_report
    --output_trace --pipeline_parallel_size --port --precision --profile_memory --profile_steps
    --query-gpu --recommend --recommend-settings --recommend-tta-type --record_shapes
    --safety-factor --safety_factor --save-config --save_profile --statistical_significance
    --target-time --target_memory_usage --tensor_parallel_size --test-only --test_data
    --test_duration --threshold_mb --update_interval --use-calibration --use_amp --use_checkpoint
    --use_deepspeed --use_tensorrt --warmup_runs --with_stack --zero_stage""",
)


def read_table():
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


ROWS = read_table()
LINES = [row for row in ROWS if not row["flag"]]
WORKING = [row for row in LINES if row["status"] == "works"]


def line_of(row):
    return row["section"], row["seed"]


def flag_rows(line):
    return [row for row in ROWS if row["flag"] and line_of(row) == line_of(line)]


def split_line(text):
    """Split a gpuopt command line into its command and its settings."""
    words = shlex.split(text)
    assert words[:2] == ["python", "-m"], text
    assert words[2].startswith("gpuopt."), text
    return words[2].removeprefix("gpuopt."), words[3:]


def flags_in(seed):
    """List the flags of a command line, those of a program in quotes excepted."""
    words = [word.partition("=")[0] for word in shlex.split(seed)]
    return [word for word in words if re.match(r"--?[A-Za-z]", word)]


def ident(row):
    return f"{row['section']}: {row['gpuopt'][17:60]}"


def test_cells_are_filled():
    assert list(ROWS[0]) == ["section", "seed", "flag", "gpuopt", "status", "note"]
    assert len(LINES) == COMMAND_COUNT
    for row in ROWS:
        assert row["status"] in ("works", "later", "shell", "not needed"), row
        assert row["section"], row
        assert "\n" not in "".join(row.values()), row
        if row["status"] == "later":
            assert row["note"].partition(":")[0] in TOPICS, row
        if row["status"] == "not needed":
            assert row["note"], f"no reason: {row}"
            assert not row["gpuopt"], row
        if row["status"] == "works" and row["flag"]:
            assert "=" in row["gpuopt"], row


def test_every_flag_of_every_command_has_a_row_of_its_own():
    for line in LINES:
        assert flags_in(line["seed"]) == [row["flag"] for row in flag_rows(line)], line["seed"]
    assert len({(*line_of(row), row["flag"]) for row in ROWS}) == len(ROWS)


def test_every_flag_of_the_guide_is_covered():
    assert {row["flag"] for row in ROWS if row["flag"].startswith("--")} == set(GUIDE_FLAGS)


def test_the_status_of_a_flag_agrees_with_its_command():
    for line in LINES:
        allowed = {
            "works": {"works", "later", "not needed"},
            "later": {"later", "not needed"},
            "shell": {"shell"},
            "not needed": {"not needed"},
        }[line["status"]]
        words = shlex.split(line["gpuopt"])
        for row in flag_rows(line):
            assert row["status"] in allowed, row
            if row["status"] == "works":
                assert row["gpuopt"] in words, row
            elif row["status"] == "later" and line["status"] == "works" and row["gpuopt"]:
                assert row["gpuopt"] not in words or row["gpuopt"] == "run=latest", row
            elif row["status"] == "later" and row["gpuopt"]:
                assert row["gpuopt"] in words or "..." in line["gpuopt"], row


def test_a_flag_of_a_script_means_one_key_everywhere():
    keys = defaultdict(set)
    for row in ROWS:
        script = re.search(r"\w+\.py", row["seed"])
        if row["flag"] and row["status"] == "works" and script:
            name = row["flag"].replace("-", "_")
            keys[script[0], name].add(row["gpuopt"].partition("=")[0])
    # Files that the guide's finder wrote are experiments, those that came with it are modes.
    assert keys.pop(("train_main.py", "__config")) == {"experiment", "mode"}
    assert keys
    for (script, flag), found in keys.items():
        assert len(found) == 1, f"{flag} of {script} is called {sorted(found)}"


@pytest.fixture
def written(tmp_path):
    """A folder with the experiment that an earlier line of the guide writes."""
    (words,) = (
        split_line(row["gpuopt"])[1]
        for row in WORKING
        if "save_config=train_auto_optimized" in row["gpuopt"]
    )
    settings = compose_settings("find_batch_size", words)
    file = ExperimentFile.place(
        settings["save_config"], shipped=CONF_DIR, marker=USER_CONF_MARKER, given=tmp_path
    )
    file.write({"mode": settings["mode"]}, {"micro_batch_size": 12}, ["A test."])
    return tmp_path


@pytest.mark.parametrize("row", WORKING, ids=ident)
def test_what_works_composes_and_has_its_effect(row, request):
    command, words = split_line(row["gpuopt"])
    folder = []
    if "experiment=train_auto_optimized" in words:
        folder = [f"hydra.searchpath=[file://{request.getfixturevalue('written')}]"]
    settings = compose_settings(command, [*words, *folder])
    composed = dict(leaves(settings))
    typed = dict(word.split("=", 1) for word in words)
    accumulate = typed.pop("accumulate_grad_batches", None)
    for group in ("gpu", "model", "precision", "tta"):
        if group in typed:
            found = settings[group]["name"].replace(" ", "").lower()
            assert found.startswith(typed.pop(group).partition("_")[0]), group
    for key, value in typed.items():
        assert composed[key] == yaml.safe_load(value), key
    if accumulate is not None:
        steps = settings["global_batch_size"] / settings["micro_batch_size"]
        assert steps == int(accumulate)


@pytest.mark.parametrize(
    "row",
    [row for row in LINES if row["status"] == "later"],
    ids=ident,
)
def test_what_comes_later_does_not_work_yet(row):
    """Fails when a feature has landed: its rows must say `works` then."""
    command, words = split_line(row["gpuopt"])
    if command not in COMMANDS:
        return
    with pytest.raises((GpuoptError, HydraException, OmegaConfBaseException)):
        compose_settings(command, words)


def answers_to(command, typed):
    """Return the words of each part of an answer, by what the part says."""
    with pytest.raises(InputError) as caught:
        translate_arguments(command, typed)
    given = " ".join(typed)
    start, _, body = str(caught.value).partition(f"{given}: ")
    assert not start
    parts = [part.partition(": ") for part in body.split("; ")]
    return {text: (words or given).split() for text, _, words in parts}


@pytest.mark.parametrize(
    "row", [row for row in WORKING if flag_rows(row) and ".py " in row["seed"]], ids=ident
)
def test_typing_the_guides_flags_is_answered_as_in_the_table(row):
    command, _ = split_line(row["gpuopt"])
    (script,) = re.findall(r"\w+\.py", row["seed"])
    seed = re.sub(r"_\$\(date [^)]*\)", "", row["seed"])  # which the shell replaces
    typed = shlex.split(seed.partition(script)[2])
    answers = answers_to(command, typed)
    flags = [flag for flag in flag_rows(row) if flag["flag"] in typed]  # the rest is Python's own
    spelled = answers.pop("options are key=value here", [])
    assert set(spelled) == {flag["gpuopt"] for flag in flags if flag["status"] == "works"}
    known = {"not available yet": "later", "not needed": "not needed"}
    known["settled by the run"] = "not needed"
    status = {word: known[text] for text, words in answers.items() for word in words}
    for flag in flags:
        assert status.get(flag["flag"], "works") == flag["status"], flag


@pytest.mark.parametrize("command", ["train", "predict", "check", "find_batch_size"])
def test_every_flag_of_the_guide_is_known_to_every_command(command):
    shell = {row["flag"] for row in ROWS if row["status"] == "shell"}
    for flag in GUIDE_FLAGS:
        if flag not in shell:
            (answer,) = answers_to(command, [flag, "1"])
            assert not answer.startswith("no such option"), flag


def test_composing_imports_no_torch():
    """Bad input is answered before torch is imported, which takes seconds."""
    code = (
        "import sys, shlex\n"
        "from gpuopt.config import compose_settings\n"
        "for line in sys.argv[1:]:\n"
        "    command, *words = shlex.split(line)\n"
        "    compose_settings(command, words)\n"
        "heavy = {'torch', 'lightning', 'timm', 'torchvision', 'torchmetrics', 'sklearn'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    lines = [row["gpuopt"].removeprefix("python -m gpuopt.") for row in WORKING[:3]]
    done = subprocess.run(
        [sys.executable, "-c", code, *lines], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
