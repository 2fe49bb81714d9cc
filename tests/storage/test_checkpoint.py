import errno
import os
import pickle
import random

import pytest
import torch

from gpuopt.errors import FaultError, InputError
from gpuopt.storage import IntactFile, Sidecar
from gpuopt.storage import checkpoint as module
from gpuopt.storage.checkpoint import link_copy, newest_valid, read_checkpoint, write_checkpoint


def state(step: int) -> dict:
    return {
        "state_dict": {"weight": torch.full((64,), float(step))},
        "global_step": step,
        "epoch": step // 10,
    }


@pytest.fixture
def folder(tmp_path):
    for step in (10, 20):
        write_checkpoint(state(step), tmp_path / "last.ckpt")
    return tmp_path


def test_round_trip(folder):
    assert read_checkpoint(folder / "last.ckpt")["state_dict"]["weight"][0] == 20
    assert read_checkpoint(folder / "previous.ckpt")["state_dict"]["weight"][0] == 10


def test_newest_valid_takes_the_last(folder):
    path, record = newest_valid(folder)
    assert (path.name, record.step, record.epoch) == ("last.ckpt", 20, 2)


def test_no_checkpoint_is_no_error(tmp_path):
    assert newest_valid(tmp_path) is None


@pytest.mark.parametrize("fraction", [i / 20 for i in range(20)])
def test_every_truncation_is_detected_and_the_one_before_is_used(folder, fraction):
    path = folder / "last.ckpt"
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    assert newest_valid(folder)[0].name == "previous.ckpt"
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(path)


def test_every_flipped_byte_is_detected(folder):
    path = folder / "last.ckpt"
    content = path.read_bytes()
    chosen = random.Random(0).sample(range(len(content)), 200)
    for position in chosen:
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(bytes(damaged))
        assert Sidecar(path).match() is None, position
    path.write_bytes(content)
    assert Sidecar(path).match() is not None


@pytest.mark.parametrize("call", range(12))
def test_a_crash_at_any_rename_leaves_a_valid_checkpoint(folder, monkeypatch, call):
    """Stop the writer at its n-th change of a name, as kill -9 would."""
    calls = iter(range(100))

    class Killed(BaseException):
        pass

    def interrupted(original):
        def rename(*args, **kwargs):
            if next(calls) == call:
                raise Killed
            return original(*args, **kwargs)

        return rename

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted(os.replace))
        patch.setattr(os, "rename", interrupted(os.rename))
        patch.setattr(os, "link", interrupted(os.link))
        patch.setattr(module.Path, "replace", interrupted(module.Path.replace))
        try:
            write_checkpoint(state(30), folder / "last.ckpt")
        except Killed:
            pass
        else:
            assert call > 4  # the writer has at least five such moments
    path, record = newest_valid(folder)
    assert record.step in (20, 30)
    assert read_checkpoint(path)["global_step"] == record.step
    write_checkpoint(state(40), folder / "last.ckpt")
    assert newest_valid(folder)[1].step == 40


def test_a_mask_of_minus_infinities_is_no_spoilt_weight(tmp_path):
    mask = torch.full((4, 4), -torch.inf).triu(1)
    write_checkpoint({"state_dict": {"mask": mask}}, tmp_path / "last.ckpt")
    assert torch.equal(read_checkpoint(tmp_path / "last.ckpt")["state_dict"]["mask"], mask)
    for spoilt in (mask + 1, -mask, torch.full((4,), -torch.inf), torch.tensor([0.0, torch.nan])):
        with pytest.raises(FaultError, match="not finite"):
            write_checkpoint({"state_dict": {"mask": mask, "w": spoilt}}, tmp_path / "last.ckpt")


def test_what_a_resume_would_refuse_is_said_at_the_first_save(tmp_path, caplog):
    strange = {**state(1), "hyper_parameters": {"folder": tmp_path}}
    for _ in range(2):
        write_checkpoint(strange, tmp_path / "last.ckpt")
    assert caplog.text.count("last.ckpt cannot be resumed from: it holds pathlib") == 1
    with pytest.raises(InputError, match="refused"):
        read_checkpoint(tmp_path / "last.ckpt")
    write_checkpoint(state(1), tmp_path / "other.ckpt")
    assert "other.ckpt" not in caplog.text


def test_a_damaged_last_never_replaces_the_good_one_before_it(folder, monkeypatch):
    """Fallen back to `previous`, the next save dies before it ends: `previous` must be there."""
    last = folder / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-7])
    assert newest_valid(folder)[1].step == 10

    def die(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(state(11), last)
    assert newest_valid(folder)[1].step == 10
    write_checkpoint(state(11), last)
    assert {newest_valid(folder)[1].step, Sidecar(folder / "previous.ckpt").match().step} == {
        11,
        10,
    }


def test_a_full_disk_keeps_the_old_checkpoint(folder, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_checkpoint(state(30), folder / "last.ckpt")
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 20
    assert not list(folder.glob("*.tmp"))


def test_weights_that_are_not_finite_are_never_written(folder):
    bad = state(30)
    bad["state_dict"]["weight"][3] = float("nan")
    with pytest.raises(FaultError, match="not finite"):
        write_checkpoint(bad, folder / "last.ckpt")
    assert newest_valid(folder)[1].step == 20


def test_best_is_a_second_name_and_survives_its_source(folder):
    link_copy(folder / "last.ckpt", Sidecar(folder / "last.ckpt").match(), folder / "best.ckpt")
    assert Sidecar(folder / "best.ckpt").match().step == 20
    write_checkpoint(state(30), folder / "last.ckpt")
    assert read_checkpoint(folder / "best.ckpt")["global_step"] == 20


def test_without_hard_links_it_copies(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    link_copy(folder / "last.ckpt", Sidecar(folder / "last.ckpt").match(), folder / "best.ckpt")
    assert read_checkpoint(folder / "best.ckpt")["global_step"] == 20


class _Bomb:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


def test_a_pickle_payload_never_runs(tmp_path):
    path, canary = tmp_path / "bomb.ckpt", tmp_path / "canary"
    torch.save({"state_dict": {}, "x": _Bomb(canary)}, path)
    with pytest.raises(InputError, match="refused"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(_Bomb(canary)))
    with pytest.raises(InputError, match=r"refused|damaged"):
        read_checkpoint(path)
    assert not canary.exists()


def test_an_instantiator_is_refused_wherever_it_hides(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"hyper_parameters": [{"_instantiator": "os.system"}]}, path)
    with pytest.raises(InputError, match="_instantiator"):
        read_checkpoint(path)


def test_the_variable_that_disables_the_safety_is_refused(folder, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(InputError, match="unset it"):
        read_checkpoint(folder / "last.ckpt")


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04 broken", b"\x80\x04N."])
def test_foreign_files_end_in_one_line(tmp_path, content):
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.ckpt is "):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_checkpoint(tmp_path / "nothing.ckpt")


def test_a_broken_sidecar_vouches_for_nothing(folder):
    for text in ("", "{", "[]", '{"files": [{"size_bytes": 1}]}'):
        (folder / "last.ckpt.json").write_text(text)
        assert newest_valid(folder)[0].name == "previous.ckpt"


def test_a_file_that_was_digested_is_not_digested_again(folder, monkeypatch):
    path = folder / "last.ckpt"
    intact = IntactFile.of_run(path)
    monkeypatch.setattr("gpuopt.storage.sidecar.sha256_of", lambda path: "0")
    assert read_checkpoint(path, intact=intact)["state_dict"]["weight"][0] == 20
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("is_renamed", [False, True])
def test_a_file_that_changed_after_it_was_digested_is_digested_again(folder, is_renamed):
    path = folder / "last.ckpt"
    intact = IntactFile.of_run(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    if is_renamed:
        (folder / "other").write_bytes(content)
        (folder / "other").replace(path)
    else:
        path.write_bytes(content)
    assert not intact.is_unchanged(path)
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(path, intact=intact)


def test_what_no_sidecar_vouches_for_is_not_intact(folder):
    path = folder / "last.ckpt"
    assert IntactFile.of_run(folder / "absent.ckpt") is None
    Sidecar(path).path.unlink()
    assert IntactFile.of_run(path) is None
    assert IntactFile.of_any(path).is_unchanged(path)
    assert not IntactFile.of_any(path).is_unchanged(folder / "previous.ckpt")
    torch.save(state(7), path, _use_new_zipfile_serialization=False)  # cannot be mapped
    assert read_checkpoint(path, intact=IntactFile.of_any(path))["global_step"] == 7
