import torch

from gpuopt.callbacks import EarlyStopping


def test_it_stops_when_the_score_does_not_improve(make_trainer, module, loader):
    module.validation_step = lambda batch, batch_idx: None
    module.on_validation_epoch_end = lambda: module.log("val/f1", 0.5)
    trainer = make_trainer(EarlyStopping(patience=2), enable_checkpointing=False, max_epochs=20)
    trainer.fit(module, loader, loader)
    assert trainer.current_epoch == 3


def test_a_run_that_had_stopped_does_not_go_on_when_resumed(make_trainer, module, loader):
    """Lightning restores the count but not the decision."""
    stopped = EarlyStopping(patience=2)
    stopped.load_state_dict(
        {"wait_count": 2, "stopped_epoch": 2, "best_score": torch.tensor(0.5), "patience": 2}
    )
    trainer = make_trainer(stopped, enable_checkpointing=False, max_epochs=20)
    trainer.fit(module, loader, loader)
    assert trainer.global_step <= 1


def test_an_epoch_without_validation_is_no_error(make_trainer, module, loader):
    trainer = make_trainer(EarlyStopping(), enable_checkpointing=False, max_steps=3)
    trainer.fit(module, loader, loader)
    assert trainer.global_step == 3
