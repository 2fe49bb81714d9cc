from gpuopt.callbacks.split_size import SplitSize


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
