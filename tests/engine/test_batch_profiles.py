import pytest

from gpuopt.engine.batch_profiles import BatchProfile, batch_profiles, fitted_batch


@pytest.mark.parametrize(
    ("optimal", "maximum", "expected"),
    [
        (32, 64, [(1, 1, 4), (8, 32, 64)]),
        (64, 64, [(1, 1, 4), (8, 64, 64)]),
        (6, 16, [(1, 1, 4), (6, 6, 16)]),
        (2, 16, [(1, 1, 4), (8, 8, 16)]),
        (1, 6, [(1, 1, 4), (6, 6, 6)]),
        (2, 4, [(1, 2, 4)]),
        (1, 1, [(1, 1, 1)]),
    ],
)
def test_single_images_and_full_batches_have_profiles_of_their_own(optimal, maximum, expected):
    assert batch_profiles(optimal, maximum) == tuple(BatchProfile(*sizes) for sizes in expected)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, (0, 1)),
        (3, (0, 3)),
        (4, (0, 4)),
        (5, (1, 32)),
        (8, (1, 32)),
        (31, (1, 32)),
        (32, (1, 32)),
        (33, (1, 64)),
        (64, (1, 64)),
    ],
)
def test_a_batch_is_filled_up_to_the_size_that_kernels_are_chosen_for(count, expected):
    assert fitted_batch(count, batch_profiles(32, 64)) == expected


@pytest.mark.parametrize(
    ("count", "too_large", "expected"),
    [
        (64, 64, (1, 64)),
        (33, 64, (1, 33)),
        (32, 64, (1, 32)),
        (16, 32, (1, 16)),
        (5, 32, (1, 8)),
        (3, 32, (0, 3)),
        (40, 32, (1, 64)),
    ],
)
def test_a_batch_is_not_filled_up_to_a_size_that_did_not_fit(count, too_large, expected):
    assert fitted_batch(count, batch_profiles(32, 64), too_large) == expected


@pytest.mark.parametrize("optimal", [1, 2, 5, 7, 8, 9, 30])
@pytest.mark.parametrize("maximum", [1, 2, 4, 5, 8, 9, 30, 100])
def test_every_batch_fits_into_the_profile_that_is_chosen(optimal, maximum):
    profiles = batch_profiles(min(optimal, maximum), maximum)
    for profile in profiles:
        assert 1 <= profile.minimum <= profile.optimum <= profile.maximum
    for count in range(1, maximum + 1):
        place, size = fitted_batch(count, profiles)
        assert count <= size
        assert profiles[place].minimum <= size <= profiles[place].maximum


@pytest.mark.parametrize("count", [0, 65])
def test_no_images_and_too_many_are_refused(count):
    with pytest.raises(ValueError, match="takes 1 to 64"):
        fitted_batch(count, batch_profiles(32, 64))


def test_shapes_are_named_as_the_builder_wants_them():
    assert BatchProfile(1, 2, 4).shapes(32) == {
        "min_shape": (1, 3, 32, 32),
        "opt_shape": (2, 3, 32, 32),
        "max_shape": (4, 3, 32, 32),
    }
