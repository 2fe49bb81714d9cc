import errno
import fcntl
import logging
import multiprocessing
import os
import signal
import threading
import warnings

import numpy as np
import pytest

from gpuopt.data import FileImages, MappedImages, cache, decode_image, open_images, parallel_rows
from gpuopt.errors import FaultError, InputError

SIZE = 12


@pytest.fixture
def files(tmp_path, make_image):
    return [make_image(tmp_path / "images" / f"{i:02d}.png", seed=i) for i in range(20)]


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that this process decodes, with small chunks and no other process."""
    names = []

    def counting(path, size):
        names.append(path.name)
        return decode_image(path, size)

    monkeypatch.setattr(cache, "decode_image", counting)
    monkeypatch.setattr(parallel_rows, "_CHUNK_ROWS", 3)
    monkeypatch.setattr(parallel_rows, "available_cpus", lambda: 1)
    return names


def opened(tmp_path, files, **options):
    return open_images(files, SIZE, cache_dir=tmp_path / "cache", **options)


def assert_holds(store, files):
    wanted = np.stack([decode_image(path, SIZE) for path in files])
    assert np.array_equal(store.read(np.arange(len(files))), wanted)


@pytest.mark.parametrize("processes", [1, 3])
def test_decodes_once(tmp_path, files, decoded, monkeypatch, processes):
    monkeypatch.setattr(parallel_rows, "available_cpus", lambda: processes)
    store, rejected = opened(tmp_path, files)
    assert isinstance(store, MappedImages)
    assert rejected == {}
    assert len(store) == 20
    assert_holds(store, files)
    decoded.clear()
    again, _ = opened(tmp_path, files)
    assert decoded == []
    assert_holds(again, files)


def test_read_gives_a_copy(tmp_path, files):
    store, _ = opened(tmp_path, files)
    rows = np.array([4, 1])
    copy = store.read(rows)
    before = copy.copy()
    copy[:] = 0
    assert np.array_equal(store.read(rows), before)


@pytest.mark.parametrize("mode", ["on", "off"])
def test_unreadable_files_are_reported_now_and_later(tmp_path, files, mode):
    files[3].write_bytes(b"")
    files[7].unlink()
    for _ in range(2):
        _, rejected = opened(tmp_path, files, cache=mode)
        assert rejected == {3: "not an image", 7: "no such file or directory"}


@pytest.mark.parametrize("mode", ["on", "off"])
def test_interrupted_work_goes_on(tmp_path, files, decoded, monkeypatch, mode):
    counting = cache.decode_image

    def interrupting(path, size):
        if len(decoded) == 11:
            raise KeyboardInterrupt
        return counting(path, size)

    files[4].write_bytes(b"")
    monkeypatch.setattr(cache, "decode_image", interrupting)
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, files, cache=mode)
    monkeypatch.setattr(cache, "decode_image", counting)
    decoded.clear()
    store, rejected = opened(tmp_path, files, cache=mode)
    assert len(decoded) == 11  # three chunks of three were whole, with the rejected one
    assert rejected == {4: "not an image"}
    good = [row for row in range(20) if row != 4]
    wanted = np.stack([decode_image(files[row], SIZE) for row in good])
    assert np.array_equal(store.read(np.array(good)), wanted)


def test_killed_process_leaves_work_that_goes_on(tmp_path, files, decoded, monkeypatch):
    monkeypatch.setattr(parallel_rows, "_SAVE_INTERVAL_S", 0.0)
    counting = cache.decode_image

    def work():
        def dying(path, size):
            if len(decoded) == 11:
                os.kill(os.getpid(), signal.SIGKILL)
            return counting(path, size)

        cache.decode_image = dying
        opened(tmp_path, files)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store, _ = opened(tmp_path, files)
    assert len(decoded) == 11
    assert_holds(store, files)


def test_killed_worker_ends_in_one_line_and_can_be_repeated(tmp_path, files, monkeypatch):
    def dying(path, size):
        if path.name == "10.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return decode_image(path, size)

    monkeypatch.setattr(parallel_rows, "_CHUNK_ROWS", 3)
    monkeypatch.setattr(parallel_rows, "available_cpus", lambda: 2)
    monkeypatch.setattr(cache, "decode_image", dying)
    with pytest.raises(FaultError, match=r"was killed.*run the command again"):
        opened(tmp_path, files)
    monkeypatch.setattr(cache, "decode_image", decode_image)
    store, _ = opened(tmp_path, files)
    assert_holds(store, files)


def test_changed_files_and_sizes_are_decoded_anew(tmp_path, files, decoded, make_image):
    opened(tmp_path, files)
    decoded.clear()
    make_image(files[2], seed=99)
    os.utime(files[2], ns=(1, 1))
    store, _ = opened(tmp_path, files)
    assert len(decoded) == 20
    assert_holds(store, files)
    decoded.clear()
    open_images(files, SIZE + 1, cache_dir=tmp_path / "cache")
    assert len(decoded) == 20


@pytest.mark.parametrize("damage", ["short", "foreign", "gone"])
def test_damaged_cache_is_made_anew(tmp_path, files, decoded, damage):
    opened(tmp_path, files)
    (file,) = (tmp_path / "cache").rglob("images.npy")
    if damage == "short":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "foreign":
        np.save(file, np.zeros(5))
    else:
        file.unlink()
    decoded.clear()
    store, _ = opened(tmp_path, files)
    assert len(decoded) == 20
    assert_holds(store, files)


def test_auto_keeps_up_to_the_limit(tmp_path, files):
    needed_gib = 20 * 3 * SIZE**2 / 2**30
    kept, _ = opened(tmp_path, files, cache_limit_gib=needed_gib * 1.01)
    assert isinstance(kept, MappedImages)
    not_kept, _ = opened(tmp_path, files, cache_limit_gib=needed_gib * 0.99)
    assert isinstance(not_kept, FileImages)
    assert_holds(not_kept, files)
    forced, _ = opened(tmp_path, files, cache="on", cache_limit_gib=0.0)
    assert isinstance(forced, MappedImages)


def test_off_keeps_no_pixels_and_checks_once(tmp_path, files, decoded):
    store, _ = opened(tmp_path, files, cache="off")
    assert isinstance(store, FileImages)
    assert len(decoded) == 20
    assert not list((tmp_path / "cache").rglob("*.npy"))
    opened(tmp_path, files, cache="off")
    assert len(decoded) == 20


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("fault", ["file in the way", "no room", "no room for the ledger"])
def test_without_room_auto_goes_on_and_on_is_refused(tmp_path, files, monkeypatch, caplog, fault):
    if fault == "no room":
        monkeypatch.setattr(os, "posix_fallocate", full)
    elif fault == "no room for the ledger":
        monkeypatch.setattr(cache.RowLedger, "save", full)
    else:
        (tmp_path / "cache").touch()
    files[5].write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="gpuopt"):
        store, rejected = opened(tmp_path, files)
    assert isinstance(store, FileImages)
    assert rejected == {5: "not an image"}
    (warning,) = caplog.messages
    assert "decoded images are not kept" in warning
    refusal = InputError if fault == "file in the way" else FaultError
    with pytest.raises(refusal, match=r"data\.cache=off") as caught:
        opened(tmp_path, files, cache="on")
    assert "\n" not in str(caught.value)


def test_a_disk_that_fills_up_later_stops_no_check(tmp_path, files, decoded, monkeypatch):
    monkeypatch.setattr(parallel_rows, "_SAVE_INTERVAL_S", 0.0)
    honest, saved = cache.RowLedger.save, []

    def filling(ledger):
        saved.append(len(ledger.pending()))
        if len(saved) > 1:
            full()
        honest(ledger)

    monkeypatch.setattr(cache.RowLedger, "save", filling)
    assert opened(tmp_path, files, cache="off")[1] == {}
    assert len(saved) > 2
    monkeypatch.undo()
    assert opened(tmp_path, files, cache="off")[1] == {}


def test_a_file_that_vanishes_later_is_named(tmp_path, files):
    store, _ = opened(tmp_path, files, cache="off")
    files[6].unlink()
    with pytest.raises(FaultError, match=r"06\.png cannot be read any more"):
        store.read(np.array([5, 6]))


def test_a_second_run_waits_for_the_first(tmp_path, files, decoded):
    opened(tmp_path, files)
    decoded.clear()
    (lock,) = (tmp_path / "cache").rglob(".lock")
    lock.with_name("ledger.json").unlink()
    results = []
    thread = threading.Thread(target=lambda: results.append(opened(tmp_path, files)))
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread.start()
        thread.join(timeout=0.3)
        assert decoded == []
    thread.join()
    assert len(decoded) == 20
    assert_holds(results[0][0], files)


def test_default_folder_is_the_users_own(tmp_path, files, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))  # where macOS keeps it
    open_images(files, SIZE)
    (file,) = tmp_path.rglob("images.npy")
    assert "gpuopt" in file.parts
