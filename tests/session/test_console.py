import io
from types import SimpleNamespace

from rich.console import Console

from gpuopt.choice import Choice
from gpuopt.data.image_store import RejectedImage
from gpuopt.hardware import load_catalogue
from gpuopt.measure import Interval
from gpuopt.schema import CONF_DIR
from gpuopt.session.console import make_console, print_plan, print_results
from gpuopt.session.evaluation import Evaluation
from gpuopt.session.plan import Plan
from gpuopt.tta import Predictions, TestTimeAugmentation

CPU = load_catalogue(CONF_DIR / "gpu")["cpu"]
TURNED = TestTimeAugmentation(name="turned", views=[{}, {"rotate": 90}])


def console():
    stream = io.StringIO()
    return Console(file=stream, width=120), stream


def opened(**changes):
    sizes = {"train_size": 100, "validation_size": 20, "test_size": 30, "num_classes": 10}
    return SimpleNamespace(**{**sizes, "has_test_set": True, "rejected": [], **changes})


def evaluation(**changes):
    import numpy as np

    zeros = np.zeros(2, np.int64)
    half, gain = Interval(0.5, 0.4, 0.6), Interval(0.1, 0.05, 0.15)
    predictions = Predictions(zeros, zeros, np.ones((2, 1), np.float32))
    return Evaluation(predictions, half, half, half, half, gain, gain, {}, **changes)


def test_the_plan_shows_batches_data_and_evidence(caplog):
    choice = Choice("precision", "fp32", "table", "why")
    choices = (choice, Choice("x", 1, "given", "asked"))
    plan = Plan("cpu", CPU, "fp32", 32, 64, 16, 1, choices, checkpointing="stages=2")
    data = opened()
    target, stream = console()
    with caplog.at_level("INFO", "gpuopt"):
        print_plan(
            target,
            plan,
            model="m",
            data_name="digits",
            data=data,
            steps=6,
            policy=TURNED,
            forecast_s=90.0,
        )
    text = stream.getvalue()
    assert "100 train, 20 validation, 30 test, 10 classes" in text
    assert "16 x 1 device x 4 accumulated = 64 per step" in text
    assert any("steps" in line and "6" in line for line in text.splitlines())
    assert "turned, 2 views" in text
    assert "stages=2" in text
    assert "predicted" in text
    assert [record.getMessage() for record in caplog.records] == [str(choice)]


def shown(data):
    plan = Plan("cpu", CPU, "fp32", 32, 64, 16, 1, ())
    target, stream = console()
    print_plan(
        target, plan, model="m", data_name="d", data=data, steps=5, policy=TURNED, forecast_s=None
    )
    return stream.getvalue()


def test_the_plan_says_what_is_left_out_and_that_nothing_else_is_there_to_test():
    text = shown(opened())
    assert "left out" not in text
    one = RejectedImage("photos/[1].jpg", "not an image")
    text = shown(opened(has_test_set=False, rejected=[one]))
    assert "d: 100 train, 20 validation and test, 10 classes" in text
    assert "left out" in text
    assert "photos/[1].jpg (not an image)" in text
    assert "more" not in text
    assert "and 2 more unreadable images" in shown(opened(rejected=[one] * 3))


def test_the_plan_shows_later_batches_and_the_learning_rate():
    choice = Choice("learning_rate_rule", "sqrt", "predicted", "0.1 x 2 = 0.2, from 16 to 64")
    plan = Plan(
        "cpu", CPU, "fp32", 32, 64, 16, 1, (choice,),
        global_batch_changes={2: 128}, learning_rate=0.2, learning_rate_rule="sqrt",
    )  # fmt: skip
    data = opened()
    target, stream = console()
    print_plan(
        target, plan, model="m", data_name="d", data=data, steps=5, policy=TURNED, forecast_s=None
    )
    rows = {line.strip().split("  ")[0]: line for line in stream.getvalue().splitlines()}
    assert "128 from epoch 3" in rows["batch later"]
    assert "5, 2, then 1 per epoch" in rows["steps"]
    assert "sqrt: 0.1 x 2 = 0.2, from 16 to 64" in rows["learning rate"]
    assert "predicted" in rows["learning rate"]


def test_results_with_views_show_the_difference(tmp_path):
    for policy, is_there in ((TURNED, True), (TestTimeAugmentation(), False)):
        target, stream = console()
        print_results(target, evaluation(), "digits", policy, tmp_path)
        assert "Test on digits" in stream.getvalue()
        assert ("difference" in stream.getvalue()) is is_there


def test_a_path_with_brackets_is_printed_as_it_is(tmp_path):
    target, stream = console()
    folder = tmp_path / "[bold]"
    print_results(target, evaluation(tested_on="validation"), "d", TURNED, folder)
    assert str(folder) in stream.getvalue()
    assert "Validation on d" in stream.getvalue()


def test_tables_in_files_have_the_width_of_a_window(capsys):
    assert make_console().width == 110
