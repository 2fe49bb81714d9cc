import threading

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from gpuopt.session.scalar_logs import make_logger


def full(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("name", "kind"), [("csv", CSVLogger), ("tensorboard", TensorBoardLogger)])
def test_a_full_disk_ends_the_log_and_is_said_once(name, kind, tmp_path, caplog):
    logger = make_logger(name, tmp_path)
    assert isinstance(logger, kind)
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()
    setattr(logger.experiment, "add_scalar" if name == "tensorboard" else "log_metrics", full)
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step=step)
        logger.save()
    logger.finalize("success")
    assert [r.message for r in caplog.records].count(
        "no scalars are logged any more ([Errno 28] No space left on device); training goes on"
    ) == 1


def test_what_is_no_scalar_is_still_a_bug(tmp_path):
    logger = make_logger("tensorboard", tmp_path)
    with pytest.raises(ValueError, match="not supported"):
        logger.log_metrics({"loss": object()}, step=0)
    logger.finalize("success")


def test_other_threads_still_report_their_errors(tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(threading, "excepthook", heard.append)
    logger = make_logger("tensorboard", tmp_path)
    thread = threading.Thread(target=full)
    thread.start()
    thread.join()
    assert len(heard) == 1
    logger.finalize("success")
    assert threading.excepthook == heard.append


def test_without_a_logger_there_is_none(tmp_path):
    assert make_logger("none", tmp_path) is None
