import pytest

from gpuopt.errors import InputError
from gpuopt.profiling.window import Window


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((100, "auto", 3, 10), Window(87, 3, 10)),
        ((13, "auto", 3, 10), Window(0, 3, 10)),
        ((None, 5, 1, 2), Window(5, 1, 2)),
        ((8, 5, 1, 2), Window(5, 1, 2)),
    ],
)
def test_two_numbers_give_the_third(given, expected):
    assert Window.of(*given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((12, "auto", 3, 10), "steps=12 is less than warmup=3 and active=10 together"),
        ((9, 5, 1, 2), r"steps=9 is not wait=5 \+ warmup=1 \+ active=2 = 8"),
    ],
)
def test_numbers_that_do_not_add_up_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        Window.of(*given)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (200, Window(87, 3, 10)),
        (100, Window(87, 3, 10)),
        (20, Window(7, 3, 10)),
        (12, Window(0, 2, 10)),
        (5, Window(0, 1, 4)),
        (2, Window(0, 1, 1)),
    ],
)
def test_a_shorter_training_shortens_the_window(steps, expected):
    assert Window(87, 3, 10).within(steps) == expected


def test_one_step_is_too_few():
    with pytest.raises(InputError, match=r"has 1 step\(s\)"):
        Window(1, 1, 1).within(1)
