from gpuopt.steps.split_size import SplitSize


def test_it_halves_and_grows_back_more_slowly_after_each_failure():
    sizes = SplitSize(grow_after_batches=2)
    assert sizes.start(10) == 10
    assert sizes.failed(10) == 5
    assert sizes.start(10) == 5
    assert sizes.start(4) == 4
    assert [sizes.succeeded(), sizes.succeeded()] == [None, 10]
    assert sizes.failed(10) == 5
    assert [sizes.succeeded() for _ in range(4)] == [None, None, None, 10]
    assert sizes.current == 10


def test_its_state_goes_through_a_checkpoint():
    sizes = SplitSize(grow_after_batches=5)
    sizes.start(16)
    sizes.failed(16)
    other = SplitSize(grow_after_batches=5)
    other.load(sizes.state())
    assert other.start(16) == 8
    assert other.state() == sizes.state()
    other.forget()
    assert other.start(16) == 16


def test_how_large_batches_are_is_seen_anew_in_each_epoch():
    sizes = SplitSize(grow_after_batches=5)
    sizes.start(16)
    other = SplitSize(grow_after_batches=5)
    other.load(sizes.state())
    sizes.begin_epoch()
    for size in (sizes, other):
        assert (size.current, size.part) == (16, 0)  # what was used last is still reported
        assert size.start(6) == 6
        assert (size.current, size.part, size.largest) == (6, 6, 6)


def test_what_is_measured_grows_by_itself_and_waits_only_where_it_failed():
    sizes = SplitSize(grow_after_batches=3)
    sizes.is_measured = True
    sizes.start(16)
    assert sizes.failed(16) == 8
    assert [sizes.succeeded() for _ in range(2)] == [None, None]
    assert not sizes.is_barred(12)
    assert sizes.is_barred(16)
    sizes.change(12)
    assert sizes.succeeded() is None
    assert not sizes.is_barred(16)
    sizes.change(16)
    assert sizes.limit is None
    assert sizes.failed(16) == 8  # again: wait twice as long
    assert [sizes.succeeded() is None and sizes.is_barred(16) for _ in range(6)] == [True] * 5 + [
        False
    ]


def test_even_parts_may_be_smaller_than_the_limit():
    sizes = SplitSize(grow_after_batches=3)
    sizes.start(10)
    sizes.limit = 9
    assert sizes.current == 9
    assert sizes.part == 5
    sizes.ceiling = 4
    assert sizes.start(10) == 4
    assert sizes.part == 4


def test_it_begins_again_where_it_began():
    sizes = SplitSize(grow_after_batches=3)
    sizes.first = 4
    sizes.start(16)
    sizes.failed(2)
    sizes.forget()
    assert sizes.start(16) == 4


def test_a_size_that_held_for_long_is_no_trial_any_more():
    sizes = SplitSize(grow_after_batches=2)
    sizes.start(8)
    sizes.failed(8)
    assert [sizes.succeeded() for _ in range(4)] == [None, 8, None, None]
    sizes.failed(8)  # something new, not the trial
    assert [sizes.succeeded() for _ in range(2)] == [None, 8]
