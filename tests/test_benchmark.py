"""The benchmark command on a small run, with the real ONNX Runtime, and what it refuses."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from gpuopt.benchmark import _PRINT, benchmark
from gpuopt.config import compose_settings
from gpuopt.engine.record import ENGINES
from gpuopt.engine.verification import report_path
from gpuopt.errors import InputError
from gpuopt.predict import predict
from gpuopt.schema import to_benchmark_config, to_predict_config
from tests.faults.commands import Command

WORDS = (
    "engines=[onnx,tensorrt]",
    "gpu=cpu",
    "runs=2",
    "warmup=0",
    "least_proof_images=24",
    "optimal_batch_size=4",
    "max_batch_size=6",
)


@pytest.fixture(scope="module")
def home(train, tmp_path_factory):
    root = tmp_path_factory.mktemp("home")
    train(root / "run", "trainer.max_steps=2")
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Engines that were built once, and a key to seal them with."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpuopt.engine.seal.default_cache_dir", lambda: folder)
        yield folder


def draw(folder, count):
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (40, 40), (70 * number, 30, 200)).save(folder / f"{number}.png")


def compared(*words):
    return benchmark(to_benchmark_config(compose_settings("benchmark", [*WORDS, *words])))


@pytest.fixture(scope="module")
def answer(home, cache):
    return compared(f"run={home / 'run'}", f"cache_dir={cache}")


def test_engines_of_a_run_are_proved_timed_and_kept_in_it(home, answer):
    records = {record.engine: record for record in answer.records}
    assert list(records) == ["eager", "onnx", "tensorrt"]
    assert records["onnx"].is_verified, records["onnx"].reason
    assert records["onnx"].build_s > 0
    assert "needs an NVIDIA GPU" in records["tensorrt"].reason
    assert (answer.images, answer.batch_sizes) == (24, (1, 4, 6))
    content = json.loads((home / "run" / ENGINES).read_text())
    assert [entry["engine"] for entry in content["engines"]] == ["eager", "onnx", "tensorrt"]
    assert (content["optimal_batch_size"], content["max_batch_size"]) == (4, 6)
    chosen = answer.choices[-1]
    assert (chosen.key, chosen.evidence) == ("engine", "measured")
    assert chosen.value in ("eager", "onnx")


def test_a_table_for_people_and_json_for_programs(answer, capsys):
    _PRINT["table"](answer)
    out = capsys.readouterr().out
    assert "Engines of test_vit at 32 px" in out
    assert "Speed on the device" in out
    assert "Speed from host to host" in out
    assert "tensorrt: tensorrt fp32 fails" in out
    (record,) = (record for record in answer.records if record.engine == "onnx")
    fault = "not timed at a batch of 6 (engine): OutOfMemoryError"
    _PRINT["table"](replace(answer, records=(replace(record, faults=(fault,)),)))
    assert f"onnx: {fault}" in capsys.readouterr().out
    assert max(map(len, out.split("written:")[0].split("gpu=")[0].splitlines())) <= 100
    _PRINT["json"](answer)
    content = json.loads(capsys.readouterr().out)
    assert (content["schema"], content["model"]) == (1, "test_vit")
    assert content["records"][1]["timings"][0]["batch_size"] == 1


def test_a_second_benchmark_takes_the_engine_from_the_cache(home, cache, answer):
    again = compared(f"run={home / 'run'}", f"cache_dir={cache}", "engines=[onnx]")
    assert again.records[1].is_verified
    assert again.records[1].build_s is None


@pytest.mark.parametrize("engine", ["onnx", "eager"])
def test_predict_takes_the_fastest_engine_without_proving_it_again(
    home, cache, answer, tmp_path, monkeypatch, capsys, engine
):
    record = home / "run" / ENGINES
    text = record.read_text()
    content = json.loads(text)
    # Whoever was faster.
    content["engines"] = [entry for entry in content["engines"] if entry["engine"] == engine]
    record.write_text(json.dumps(content))
    monkeypatch.setattr("gpuopt.engine.proved.build_verified", None)  # would prove
    monkeypatch.setattr("gpuopt.engine.onnx.Onnx.build", None)
    words = (f"run={home / 'run'}", "engine=auto", "gpu=cpu", "num_workers=0", "batch_size=64")
    settings = compose_settings("predict", [*words, f"cache_dir={cache}"])
    output = predict(to_predict_config(settings), tmp_path)
    record.write_text(text)
    assert len(output.read_text().splitlines()) == 451
    out = " ".join(capsys.readouterr().out.split())
    assert f"engine={engine} (" in out
    assert "images/s in" in out  # what was timed is what predicts


def test_an_engines_file_is_timed_alone_on_images_of_a_folder(cache, answer, tmp_path):
    draw(tmp_path / "photos", 3)
    (file,) = cache.rglob("engine.onnx")
    found = compared(f"engine_path={file}", f"data.root={tmp_path / 'photos'}", "data.cache=off")
    (record,) = found.records
    assert (record.engine, found.images, found.batch_sizes) == ("onnx", 3, (1, 4, 6))
    assert len(record.timings) == 6
    assert record.is_verified
    assert "verified on 24 images" in record.reason
    assert found.written is None
    report = report_path(file)
    content = report.read_bytes()
    report.write_text(content.decode().replace('"provider": "cpu"', '"provider": "cuda"'))
    found = compared(f"engine_path={file}", f"data.root={tmp_path / 'photos'}", "data.cache=off")
    assert not found.records[0].is_verified
    assert found.records[0].reason == "it was proved with provider=cuda, and this is cpu"
    report.unlink()
    found = compared(f"engine_path={file}", f"data.root={tmp_path / 'photos'}", "data.cache=off")
    report.write_bytes(content)
    assert not found.records[0].is_verified
    assert found.records[0].reason == "there is no report of a proof beside it"


def test_a_file_that_somebody_else_made_is_refused(tmp_path):
    draw(tmp_path / "photos", 1)
    (tmp_path / "model.onnx").write_bytes(b"whatever")
    with pytest.raises(InputError, match=r"model\.onnx is refused"):
        compared(f"engine_path={tmp_path / 'model.onnx'}", f"data.root={tmp_path / 'photos'}")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["target=enginez"], "target=enginez is not one of engines"),
        (["engines=[onyx]"], r"engines: onyx is no engine \(nearest: onnx\)"),
        (["runs=1"], "runs=1 is out of range"),
        (["warmup=-1"], "warmup=-1 is out of range"),
        (["least_proof_images=0"], "least_proof_images=0 is out of range"),
        (["optimal_batch_size=big"], "optimal_batch_size=big is neither auto"),
        (["max_batch_size=2"], "optimal_batch_size=4 is above max_batch_size=2"),
        (["run=x", "engine_path=y"], "give run= or engine_path=, not both"),
        (["engine_path=none.onnx"], r"engine_path=none\.onnx is no file"),
        (["run=nowhere"], "run=nowhere does not exist"),
    ],
)
def test_what_cannot_work_ends_in_one_line(words, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=reason):
        compared(*words)


def test_a_file_without_images_says_how_to_give_them(tmp_path):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(InputError, match=r"data\.root=FOLDER"):
        compared(f"engine_path={tmp_path / 'model.onnx'}")


def test_a_run_of_folds_has_its_engines_by_fold(tmp_path, home):
    run = tmp_path / "folds"
    (run / "fold_0").mkdir(parents=True)
    (run / "config.yaml").write_text((home / "run" / "config.yaml").read_text() + "\nfolds: 2\n")
    (run / "fold_0" / "checkpoints").symlink_to(home / "run" / "checkpoints")
    with pytest.raises(InputError, match="name one, such as run="):
        compared(f"run={run}")


@pytest.mark.slow
def test_the_guides_flags_are_answered(light, tmp_path):
    words = ("--engine_path", "m.engine", "--test_data", "raw", "--benchmark_runs", "100")
    done = Command("gpuopt.benchmark", *words, cwd=tmp_path, warm=light).end()
    assert done.code == 2
    (line,) = done.stderr.strip().splitlines()
    assert "engine_path=m.engine data.root=raw runs=100" in line
    assert list(tmp_path.iterdir()) == []
