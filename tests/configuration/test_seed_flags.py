import re
from dataclasses import fields

import pytest
from hydra._internal.utils import get_args_parser

from gpuopt.config import compose_settings
from gpuopt.configuration import SEED_SPELLINGS, translate_arguments
from gpuopt.configuration.seed_flags import (
    FINDER_SPELLINGS,
    KEYS,
    PROFILER_SPELLINGS,
    RECOMMENDER_SPELLINGS,
)
from gpuopt.errors import InputError
from gpuopt.schema import (
    BenchmarkConfig,
    CheckConfig,
    FindBatchSizeConfig,
    PredictConfig,
    ProfilerConfig,
    RecommendTtaConfig,
    TrainConfig,
    TuneConfig,
)

HYDRA_OPTIONS = [
    (option, action) for action in get_args_parser()._actions for option in action.option_strings
]


def answer(line, command="train"):
    with pytest.raises(InputError) as caught:
        translate_arguments(command, line.split())
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{line}: ")
    return message.removeprefix(f"{line}: ")


def test_all_wrong_flags_are_answered_at_once():
    message = answer("--batch_size 16 --use_amp")
    assert message == "options are key=value here: micro_batch_size=16 precision=auto"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--use_amp", "precision=auto"),
        ("--use-amp", "precision=auto"),
        ("--use_amp true", "precision=auto"),
        ("--use_amp=false", "precision=fp32"),
        ("--use_amp false", "precision=fp32"),
        ("--use_checkpoint --checkpoint_segments 4", "model.checkpointing=stages=4"),
        ("--checkpoint_segments 4 --use_checkpoint", "model.checkpointing=stages=4"),
        ("--offload_optimizer", "optimizer.offload=true"),
        ("--offload_optimizer=cpu", "optimizer.offload=true"),
        ("--offload_optimizer false", "optimizer.offload=false"),
        ("--batch-size 16", "micro_batch_size=16"),
        ("--batch_size 16", "micro_batch_size=16"),
        ("--batch_size=16", "micro_batch_size=16"),
        ("--batch-size=16", "micro_batch_size=16"),
        ("--batch_size 8,16", "micro_batch_size=8,16"),
        ("--epochs 3", "trainer.max_epochs=3"),
        ("--max_epochs 1", "trainer.max_epochs=1"),
        ("--config configs/train.yaml", "mode=basic"),
        ("--config configs/train_highperf.yaml", "mode=highperf"),
        ("--config=configs/train_fast_optimized.yaml", "mode=fast_optimized"),
        ("--config train_lowend_highperf.yml", "mode=lowend_highperf"),
        ("--mode highperf", "mode=highperf"),
        ("--config configs/train_mine.yaml --mode basic", "experiment=train_mine mode=basic"),
        ("--gradient_accumulation_steps 4", "accumulate_grad_batches=4"),
        ("--accumulate_grad_batches 4", "accumulate_grad_batches=4"),
        ("--effective_batch_size 128", "global_batch_size=128"),
        ("--image-size 384", "image_size=384"),
        ("--num_workers 4", "num_workers=4"),
        ("--lr 1e-3", "model.learning_rate=1e-3"),
        ("-lr 1e-3", "model.learning_rate=1e-3"),
        ("--learning_rate .1", "model.learning_rate=.1"),
        ("--weight_decay 0.01", "optimizer.weight_decay=0.01"),
        ("--gpu_model rtx4090", "gpu=rtx4090"),
        ("--gpu rtx3060", "gpu=rtx3060"),
        ("--model convnext_base_384", "model=convnext_base_384"),
        ("--precision bf16", "precision=bf16"),
        ("--tta", "tta=essential"),
        ("--tta doc15", "tta=doc15"),
        ("--tta false", "tta=none"),
        ("--tta_type comprehensive", "tta=comprehensive"),
        ("--compile_model", "compile.mode=default"),
        ("--compile_mode max-autotune", "compile.mode=max-autotune"),
        ("--dynamo_backend eager", "compile.backend=eager"),
        ("--use_checkpoint", "model.checkpointing=full"),
        ("--safety_factor 0.95", "gpu.headroom_ratio=0.05"),
        ("--safety-factor 0.80", "gpu.headroom_ratio=0.2"),
        ("--max_memory_usage 0.85", "gpu.headroom_ratio=0.15"),
        ("--memory-safety-margin 0.15", "gpu.headroom_ratio=0.15"),
        ("--gpu-memory 6", "gpu.memory_limit_mib=6144"),
        ("--gpu_memory_limit 6144", "gpu.memory_limit_mib=6144"),
        ("--trainer.max_epochs 2", "trainer.max_epochs=2"),
        ("--label_smoothing 0.2", "model.label_smoothing=0.2"),
        ("--trainer.max_steps -1", "trainer.max_steps=-1"),
        ("--seed=5", "seed=5"),
        ("--folds 5", "folds=5"),
    ],
)
def test_the_answer_composes(line, expected):
    assert answer(line) == f"options are key=value here: {expected}"
    if "," not in expected and "experiment=" not in expected:
        compose_settings("train", expected.split())


@pytest.mark.parametrize("name", SEED_SPELLINGS)
def test_every_spelling_names_a_key(name):
    key = SEED_SPELLINGS[name].partition("=")[0].partition(".")[0]
    assert key in {*KEYS["train"], *KEYS["predict"], *KEYS["benchmark"]}


@pytest.mark.parametrize("name", FINDER_SPELLINGS)
def test_every_spelling_of_the_finder_names_a_key(name):
    assert FINDER_SPELLINGS[name].partition("=")[0] in KEYS["find_batch_size"]


@pytest.mark.parametrize("name", RECOMMENDER_SPELLINGS)
def test_every_spelling_of_the_recommender_names_a_key(name):
    assert RECOMMENDER_SPELLINGS[name].partition("=")[0] in KEYS["recommend_tta"]


@pytest.mark.parametrize("name", PROFILER_SPELLINGS)
def test_every_spelling_of_the_profiler_names_a_key(name):
    assert PROFILER_SPELLINGS[name].partition("=")[0] in KEYS["profiler"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "--config configs/train.yaml --profile_steps 100 --output_dir logs/profiling/",
            "mode=basic steps=100 output=logs/profiling",
        ),
        (
            "--config configs/train_fast_optimized.yaml --fold 0 --max_epochs 1",
            "mode=fast_optimized fold=0 trainer.max_epochs=1",
        ),
        (
            "--activities cpu,cuda --record_shapes --with_stack "
            "--output_trace logs/profiling/memory_trace.json --profile_memory",
            "activities=[cpu,cuda] record_shapes=true with_stack=true output=logs/profiling "
            "profile_memory=true",
        ),
    ],
)
def test_the_guides_profilers_are_answered(line, expected):
    assert answer(line, "profiler") == f"options are key=value here: {expected}"
    settings = compose_settings("profiler", expected.split())
    assert settings["mode"] in ("basic", "fast_optimized", "quickstart")


def test_other_commands_name_the_profiler():
    assert answer("--profile_steps 100") == "gpuopt profiler takes that"
    assert answer("with_stack=true") == "gpuopt profiler takes that"


def test_the_guides_recommender_is_answered():
    typed = [
        "--config",
        "configs/infer_highperf.yaml",
        "--target-time",
        "20",
        "--min-f1-score",
        "0.945",
    ]
    with pytest.raises(InputError) as caught:
        translate_arguments("recommend_tta", typed)
    assert str(caught.value).endswith(
        "options are key=value here: run=latest target_minutes=20 min_f1=0.945"
    )
    assert answer("--target-time 20") == "gpuopt recommend_tta takes that"
    assert answer("min_f1_score=0.9") == "gpuopt recommend_tta takes that"


def test_the_keys_are_those_of_the_schemas():
    assert set(KEYS["train"]) == {field.name for field in fields(TrainConfig)}
    assert set(KEYS["predict"]) == {field.name for field in fields(PredictConfig)}
    assert set(KEYS["benchmark"]) == {field.name for field in fields(BenchmarkConfig)}
    assert set(KEYS["check"]) == {field.name for field in fields(CheckConfig)}
    assert set(KEYS["recommend_tta"]) == {field.name for field in fields(RecommendTtaConfig)}
    assert set(KEYS["profiler"]) == {field.name for field in fields(ProfilerConfig)}
    assert set(KEYS["tune"]) == {field.name for field in fields(TuneConfig)}
    assert set(KEYS["find_batch_size"]) == {field.name for field in fields(FindBatchSizeConfig)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("batch_size=16", "micro_batch_size=16"),
        ("batch-size=16", "micro_batch_size=16"),
        ("+batch_size=16", "micro_batch_size=16"),
        ("++lr=0.1", "model.learning_rate=0.1"),
        ("use_amp=true", "precision=auto"),
        ("batch_size=8,16 epochs=3", "micro_batch_size=8,16 trainer.max_epochs=3"),
        ("max_epochs=3", "trainer.max_epochs=3"),
        ("checkpointing=stages=2", "model.checkpointing=stages=2"),
    ],
)
def test_keys_of_the_guide_without_dashes_are_answered_too(line, expected):
    assert answer(line) == f"that is called here: {expected}"


@pytest.mark.parametrize(
    "word",
    [
        "mode=highperf",
        "model=timm",
        "precision=fp16",
        "image_size=64",
        "micro_batch_size=8",
        "trainer.max_epochs=3",
        "model.learning_rate=0.1",
        "+data.batch_size=3",
        "~callbacks",
        "hydra.sweeper.max_batch_size=2",
        "hydra/launcher=joblib",
        "anything=1",
    ],
)
def test_settings_pass(word):
    assert translate_arguments("train", [word]) == [word]


def test_later_features_get_no_spelling():
    assert answer("--use_deepspeed --zero_stage 2") == "not available yet"
    assert answer("--mode find_optimal") == "gpuopt find_batch_size takes that"
    message = answer("--batch_size 4 --zero_stage 2 --metrics a --amp_opt_level O1")
    assert message == (
        "options are key=value here: micro_batch_size=4; "
        "not available yet: --zero_stage 2 --metrics a; not needed: --amp_opt_level O1"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--compile_model --compile_mode max-autotune", "compile.mode=max-autotune"),
        ("--compile_mode max-autotune --compile_model", "compile.mode=max-autotune"),
        ("--config configs/train.yaml --mode highperf", "mode=highperf"),
        ("--mode highperf --config configs/train.yaml", "mode=highperf"),
        ("--use_amp --precision fp16", "precision=fp16"),
        ("--precision fp16 --use_amp", "precision=fp16"),
    ],
)
def test_two_flags_of_one_key_give_one_setting(line, expected):
    assert answer(line) == f"options are key=value here: {expected}"


def test_values_and_settings_are_told_apart():
    assert answer("--use_amp --batch_size") == (
        "options are key=value here: precision=auto micro_batch_size=N"
    )
    with pytest.raises(InputError) as caught:
        translate_arguments("train", ["--use_amp", "gpu=rtx3060", "--batch_size", "seed=1"])
    assert str(caught.value) == (
        "--use_amp --batch_size: options are key=value here: precision=auto micro_batch_size=N"
    )


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("--batchsize 16", "micro_batch_size=16"),
        ("--weight-decai 0.1", "optimizer.weight_decay=0.1"),
        ("--trainer_max_epoch 3", "trainer.max_epochs=3"),
        ("--multi", "--multirun"),
        ("--config_dir x", "--config-dir"),
        ("--image_sise 64", "image_size=64"),
    ],
)
def test_an_unknown_flag_gets_the_nearest(line, nearest):
    message = answer(line)
    assert message.startswith("no such option (nearest: ")
    assert nearest in re.split(r"[:,)] ?", message)


def test_a_flag_like_nothing_is_refused_all_the_same():
    assert answer("--xyzzy 3") == "no such option"
    assert answer("-q") == "no such option"


@pytest.mark.parametrize("line", ["--config my.yaml", "--config"])
def test_an_unknown_file_lists_the_modes(line):
    (words,) = re.findall(r"mode=(\S+)", answer(line))
    for mode in words.split("|"):
        compose_settings("train", [f"mode={mode}"])


@pytest.mark.parametrize("line", ["--safety_factor high", "--gpu_memory 6GB"])
def test_a_value_that_is_no_number_is_left_out(line):
    assert re.fullmatch(r"options are key=value here: gpu\.\w+=[NX]", answer(line))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--batch_size 16", "options are key=value here: batch_size=16"),
        ("--model_path x.ckpt", "options are key=value here: run=x.ckpt"),
        ("--fold-results fold_results.yaml", "options are key=value here: run=fold_results.yaml"),
        (
            "--fold-results lastest-train/fold_results.yaml",
            "options are key=value here: run=latest",
        ),
        ("--fold 1", "settled by the run"),
        ("--output_path x.csv", "options are key=value here: output=x.csv"),
        ("--mode highperf --epochs 3", "settled by the run"),
        ("--config configs/infer_highperf.yaml", "settled by the run"),
        ("mode=highperf", "settled by the run"),
        (
            "--precision fp16 --image_size 384 --use_tensorrt",
            "options are key=value here: precision=fp16 engine=tensorrt; "
            "settled by the run: --image_size 384",
        ),
        ("--optimize_for_inference", "options are key=value here: optimize=true"),
        ("--engine_path x.onnx", "options are key=value here: engine_path=x.onnx"),
        ("--compile_model", "options are key=value here: engine=compiled"),
        ("--dynamo_backend inductor", "options are key=value here: engine=compiled"),
    ],
)
def test_predict_has_keys_of_its_own(line, expected):
    def parts(text):
        return sorted(text.split("; "))

    assert parts(answer(line, "predict")) == parts(expected)


def test_export_has_keys_of_its_own_and_training_names_the_command_that_has_engines():
    line = "--model_path x.pth --output_path x.engine --precision fp16 --max_batch_size 64"
    assert answer(line, "export") == (
        "options are key=value here: checkpoint=x.pth output=x.engine precision=fp16 "
        "max_batch_size=64"
    )
    assert answer("--use_tensorrt", "train") == "gpuopt predict takes that"
    assert answer("--compile_model", "train").startswith("options are key=value here: compile.mode")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--max_batch_size 384", "options are key=value here: max_batch_size=384"),
        ("--min-batch-size 8", "options are key=value here: min_batch_size=8"),
        ("--gpu_ids 0,1", "options are key=value here: gpu_ids=[0,1]"),
        ("--save-config configs/mine.yaml", "options are key=value here: save_config=mine"),
        ("--save_profile a.json", "options are key=value here: memory_profile=a.json"),
        ("--test-only", "options are key=value here: test_only=true"),
        ("--aggressive-optimization", "options are key=value here: aggressive=true"),
        ("--model-type convnext", "options are key=value here: model=convnext_base_384"),
        ("--config configs/infer_highperf.yaml", "options are key=value here: mode=highperf"),
        ("--find-optimal --multi_gpu --profile_memory", "not needed"),
        ("--mode find_optimal", "not needed"),
        ("find_optimal=true", "not needed"),
    ],
)
def test_the_finder_takes_what_the_guides_finder_took(line, expected):
    assert answer(line, "find_batch_size") == expected


@pytest.mark.parametrize(
    "line", ["--find-optimal", "--save-config a", "--gpu_ids 0,1", "target=3", "test_only=true"]
)
def test_other_commands_name_the_finder(line):
    assert answer(line, "train") == "gpuopt find_batch_size takes that"


def test_the_batch_size_of_predict_is_a_key():
    assert translate_arguments("predict", ["batch_size=16"]) == ["batch_size=16"]


def test_keys_of_other_commands_are_their_own():
    assert translate_arguments("monitor", ["port=80", "interval=1"]) == ["port=80", "interval=1"]
    assert answer("--batch_size 4", "monitor") == "settled by the run"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--dashboard --port 8080", "options are key=value here: view=web port=8080"),
        ("--update-interval 2", "options are key=value here: interval=2"),
        ("--log_file logs/a.json", "options are key=value here: log=logs/a.jsonl"),
        ("log_file=a.jsonl", "that is called here: log=a.jsonl"),
        ("--gpu_ids 0,1", "options are key=value here: gpu_ids=[0,1]"),
        ("--export_prometheus", "options are key=value here: prometheus=true"),
        ("--multi_gpu", "not needed"),
    ],
)
def test_the_monitor_takes_what_the_guides_monitor_took(line, expected):
    assert answer(line, "monitor") == expected


@pytest.mark.parametrize("line", ["--dashboard", "--duration 60", "port=8080", "log_file=a"])
def test_other_commands_name_the_monitor(line):
    assert answer(line, "train") == "gpuopt monitor takes that"


@pytest.mark.parametrize(("option", "action"), HYDRA_OPTIONS, ids=[o for o, _ in HYDRA_OPTIONS])
def test_hydras_own_options_pass_with_their_values(option, action):
    words = [option]
    if action.nargs is None:  # takes one value
        words.append(action.choices[0] if action.choices else "value")
    found = translate_arguments("train", ["gpu=cpu", *words, "seed=1"])
    if option in ("-i", "--info"):
        words = ["--info=all"]
    assert found == [*words, "gpu=cpu", "seed=1"]


@pytest.mark.parametrize(
    "line",
    [
        "gpu=cpu -m seed=1,2",
        "gpu=cpu --multirun seed=1 --config-dir conf trainer.max_epochs=2",
        "gpu=cpu --cfg job seed=1 --resolve",
        "gpu=cpu --cfg=job seed=1 -p trainer mode=basic",
        "--info gpu=cpu",
        "gpu=cpu --info defaults seed=1",
    ],
)
def test_hydras_parser_takes_the_order(line):
    words = line.split()
    parsed = get_args_parser().parse_args(translate_arguments("train", words))
    assert parsed.overrides == [word for word in words if "=" in word and word[0] != "-"]
    assert parsed.multirun == ("-m" in words or "--multirun" in words)
    assert parsed.cfg == ("job" if "cfg" in line else None)
    assert parsed.config_dir == ("conf" if "config-dir" in line else None)
    if "--info" in line:
        assert parsed.info == ("defaults" if "defaults" in line else "all")
