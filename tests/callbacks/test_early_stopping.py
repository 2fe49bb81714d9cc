from gpuopt.callbacks import EarlyStopping


def test_it_stops_when_the_score_does_not_improve(make_trainer, module, loader):
    module.validation_step = lambda batch, batch_idx: None
    module.on_validation_epoch_end = lambda: module.log("val/f1", 0.5)
    trainer = make_trainer(EarlyStopping(patience=2), enable_checkpointing=False, max_epochs=20)
    trainer.fit(module, loader, loader)
    assert trainer.current_epoch == 3
