"""Predictions that are cut short, in processes of their own, and what they go on to."""

import csv
import signal

import numpy as np
import pytest
import torch

from gpuopt.config import compose_settings
from gpuopt.errors import FaultError, InputError, PreemptedError
from gpuopt.predict import predict
from gpuopt.schema import to_predict_config
from gpuopt.tta import PredictionFile
from tests.faults.commands import fault

BATCHES = 5


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume") / "run"
    train(folder)
    return folder


@pytest.fixture(scope="module")
def words(run):
    return ("gpu=cpu", "num_workers=0", f"run={run}", "batch_size=96", "tta=essential")


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """What an undisturbed prediction writes."""
    return predicted(tmp_path_factory.mktemp("whole"), *words).read_bytes()


def predicted(folder, *words):
    folder.mkdir(exist_ok=True)
    return predict(to_predict_config(compose_settings("predict", list(words))), folder)


def stop_at(monkeypatch, call, error):
    """Raise before the file of parts gets its n-th batch; returns the batches that it got."""
    kept, original = [], PredictionFile.append

    def append(self, block):
        if len(kept) + 1 == call:
            raise error
        original(self, block)
        kept.append(len(block.ids))

    monkeypatch.setattr(PredictionFile, "append", append)
    return kept


def test_killed_it_goes_on_from_the_last_whole_batch_to_the_same_bytes(
    start_command, words, whole, tmp_path
):
    fatal = fault("keeping a prediction", call=4)
    assert start_command(tmp_path, "gpuopt.predict", *words, faults=(fatal,)).end().code == -9
    (part,) = tmp_path.glob("outputs/predict/*/*")
    assert part.name == "predictions.csv.part"
    # Three of five batches are there: were a fourth one done again, it would be killed again.
    words = (*words, "resume=true")
    done = start_command(tmp_path, "gpuopt.predict", *words, faults=(fatal,)).end()
    assert done.code == 0, done.stderr
    assert "going on after 288 of 450 images" in done.stderr
    (file,) = tmp_path.glob("outputs/predict/*/*")
    assert file == part.with_name("predictions.csv")
    assert file.read_bytes() == whole


def test_killed_while_the_csv_is_written_nothing_is_predicted_again(
    start_command, words, whole, tmp_path
):
    words = (*words, "output=p.csv")
    fatal = fault("writing the predictions")
    assert start_command(tmp_path, "gpuopt.predict", *words, faults=(fatal,)).end().code == -9
    left = {path.name for path in tmp_path.iterdir()}
    assert "p.csv.part" in left
    assert "p.csv" not in left
    words = (*words, "resume=true")
    fatal = fault("keeping a prediction")
    done = start_command(tmp_path, "gpuopt.predict", *words, faults=(fatal,)).end()
    assert done.code == 0, done.stderr
    assert (tmp_path / "p.csv").read_bytes() == whole


def test_asked_to_stop_it_ends_with_75_and_names_how_to_go_on(
    start_command, words, whole, tmp_path
):
    stop = fault("keeping a prediction", do="stop", call=3)
    command = start_command(tmp_path, "gpuopt.predict", *words, faults=(stop,))
    ended = command.end()
    assert ended.code == 75
    (folder,) = tmp_path.glob("outputs/predict/*")
    assert f"after 192 of 450 images: the same command with resume={folder}" in ended.last_line
    assert f"stopped by {signal.SIGTERM.name}" in ended.last_line
    done = start_command(tmp_path, "gpuopt.predict", *words, f"resume={folder}").end()
    assert done.code == 0, done.stderr
    assert (folder / "predictions.csv").read_bytes() == whole
    again = start_command(tmp_path, "gpuopt.predict", *words, f"resume={folder}").end()
    assert again.code == 2
    assert "that prediction is complete" in again.last_line


@pytest.mark.parametrize("call", [1, 2, BATCHES])
def test_interrupted_anywhere_it_goes_on_to_the_same_bytes(
    words, whole, tmp_path, monkeypatch, call
):
    with monkeypatch.context() as patch:
        stop_at(patch, call, KeyboardInterrupt("SIGINT"))
        kind = KeyboardInterrupt if call == 1 else PreemptedError
        with pytest.raises(kind, match="SIGINT"):
            predicted(tmp_path, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv.part"] * (call > 1)
    kept = stop_at(monkeypatch, None, None)
    assert predicted(tmp_path, *words, "resume=true").read_bytes() == whole
    assert len(kept) == BATCHES - call + 1


def test_a_fault_keeps_what_was_done_and_says_so(words, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 3, FaultError("the disk is full: free space"))
        text = "the disk is full: free space; 192 of 450 images are kept: the same command with"
        with pytest.raises(FaultError, match=text):
            predicted(tmp_path, *words)
    assert predicted(tmp_path, *words, "resume=true").read_bytes() == whole


def test_other_weights_are_refused(words, run, part, tmp_path):
    (tmp_path / "predictions.csv.part").write_bytes(part.read_bytes())
    content = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    other = tmp_path / "other.ckpt"
    torch.save(content, other)  # the same numbers in another file
    words = (*words, "data=digits", f"run={other}", "resume=true")
    with pytest.raises(InputError, match=r"part was begun otherwise \(other weights\): give the"):
        predicted(tmp_path, *words)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ("tta=legacy", "tta.views: .*brightness.* -> "),
        ("tta.merge=geometric", "tta.merge: mean -> geometric"),
        ("tta.chunk_size=7", "tta.chunk_size: 32 -> 7"),
        ("precision=bf16", "precision: fp32 -> bf16"),
        ("batch_size=32", "batch_size: 96 -> 32"),
        ("data.test_ratio=0.3", "other images, or other names"),
    ],
)
def test_another_prediction_is_refused_with_the_difference(
    words, part, tmp_path, changed, difference
):
    content = part.read_bytes()
    (tmp_path / "predictions.csv.part").write_bytes(content)
    words = (*words, "data=digits", changed, "resume=true")
    with pytest.raises(InputError, match=f"part was begun otherwise .*{difference}"):
        predicted(tmp_path, *words)
    assert (tmp_path / "predictions.csv.part").read_bytes() == content


@pytest.mark.parametrize(
    ("name", "found", "difference"),
    [
        ("processor_name", "another CPU", "device: .* -> another CPU"),
        ("code_versions", {"code": "0", "timm": "0.1"}, "version of gpuopt; timm: .* -> 0.1"),
    ],
)
def test_another_device_or_version_is_refused(
    words, part, tmp_path, monkeypatch, name, found, difference
):
    (tmp_path / "predictions.csv.part").write_bytes(part.read_bytes())
    monkeypatch.setattr(f"gpuopt.session.ensemble.{name}", lambda: found)
    with pytest.raises(InputError, match=f"part was begun otherwise .*{difference}"):
        predicted(tmp_path, *words, "data=digits", "resume=true")


@pytest.fixture(scope="module")
def part(words, tmp_path_factory):
    """What an interrupted prediction leaves behind."""
    folder = tmp_path_factory.mktemp("part")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3, KeyboardInterrupt())
        with pytest.raises(PreemptedError, match="stopped by Ctrl-C"):
            predicted(folder, *words)
    return folder / "predictions.csv.part"


def test_loader_processes_and_the_cache_folder_may_change(words, whole, part, tmp_path):
    (tmp_path / "predictions.csv.part").write_bytes(part.read_bytes())
    words = (*words, "num_workers=1", f"cache_dir={tmp_path / 'cache'}", "resume=true")
    assert predicted(tmp_path, *words).read_bytes() == whole


def test_a_torn_end_is_predicted_again_and_another_file_is_refused(words, whole, part, tmp_path):
    torn = tmp_path / "predictions.csv.part"
    torn.write_bytes(part.read_bytes()[:-1])
    assert predicted(tmp_path, *words, "resume=true").read_bytes() == whole
    torn.write_bytes(b"mine")
    (tmp_path / "predictions.csv").unlink()
    with pytest.raises(InputError, match="no file of gpuopt: delete it to begin anew"):
        predicted(tmp_path, *words, "resume=true")
    assert torn.read_bytes() == b"mine"


def test_without_resume_what_was_begun_is_neither_used_nor_lost(words, part, tmp_path):
    (tmp_path / "predictions.csv.part").write_bytes(part.read_bytes())
    with pytest.raises(InputError, match="was cut short: resume=true goes on with it"):
        predicted(tmp_path, *words)
    assert (tmp_path / "predictions.csv.part").read_bytes() == part.read_bytes()


def test_what_is_chosen_is_printed_before_the_prediction(words, tmp_path, capsys, monkeypatch):
    stop_at(monkeypatch, 1, FaultError("stop"))
    with pytest.raises(FaultError, match=r"^stop$"):
        predicted(tmp_path, *words)
    lines = capsys.readouterr().out.splitlines()
    assert (
        "tta.chunk_size=32 (table: a batch, at most 32 on a CPU; 480 views of a batch in 15); "
        "pin with tta.chunk_size=..."
    ) in lines
    assert not list(tmp_path.iterdir())


def test_the_csv_names_every_test_image_once(whole):
    rows = list(csv.DictReader(whole.decode().splitlines()))
    assert len({row["id"] for row in rows}) == len(rows) == 450


def shares(content):
    rows = list(csv.reader(content.decode().splitlines()))[1:]
    return np.array([row[4:] for row in rows], float)


@pytest.mark.parametrize("merge", ["mean", "geometric"])
def test_any_list_of_views_with_weights_is_merged_as_asked(words, tmp_path, merge):
    def with_views(name, views):
        return shares(
            predicted(
                tmp_path / name, *words, "tta=none", f"tta.views={views}", f"tta.merge={merge}"
            ).read_bytes()
        )

    plain = with_views("plain", "[{}]")
    turned = with_views("turned", "[{rotate:90}]")
    both = with_views("both", "[{},{rotate:90,weight:3}]")
    assert not np.allclose(plain, turned, atol=1e-3)
    if merge == "mean":
        expected = 0.25 * plain + 0.75 * turned
    else:
        product = plain**0.25 * turned**0.75
        expected = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(both, expected, atol=2e-6)
