"""Engines with planted faults, each of which has to be found, and good ones, which pass."""

import json

import pytest
import torch
from torch import nn

from gpuopt.engine.verification import Bounds, read_report, report_path, write_report
from gpuopt.engine.verify import proof_batch_sizes, verify
from gpuopt.errors import FaultError, InputError

SIZES = (1, 3, 8, 16)
CLASSES = 5


class Reference(nn.Module):
    """Classifies by the mean of five patches, as sharply as a trained network."""

    def forward(self, images):
        return images[:, 0, :1, :CLASSES].flatten(1).float() / 40


class FakeEngine:
    """The reference with a fault: a function of images and right logits that gives wrong ones."""

    name, precision, max_batch_size = "fake", "fp16", 16
    device = torch.device("cpu")

    def __init__(self, fault=lambda images, logits: logits):
        self.fault, self.sizes = fault, []

    def __call__(self, images):
        assert images.dtype == torch.uint8
        self.sizes.append(len(images))
        return self.fault(images, Reference()(images))


def pictures(count=500):
    """Distinct images whose classes are decided, but for what a test makes close."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    rows = torch.arange(count)
    images[rows, 0, 0, rows % CLASSES] = 200
    images[:, 1, 0, 0] = (rows % 250).to(torch.uint8)
    images[:, 1, 0, 1] = (rows // 250).to(torch.uint8)
    return images


IMAGES = pictures()


def number_of(images):
    return images[:, 1, 0, 0].int() + 250 * images[:, 1, 0, 1].int()


def prove(fault=None, images=IMAGES, sizes=SIZES, **options):
    engine = FakeEngine(fault) if fault else FakeEngine()
    return verify(engine, Reference(), images, batch_sizes=sizes, **options), engine


def test_an_equal_engine_is_accepted_at_all_sizes():
    found, engine = prove(seed=3)
    assert found.accepted
    assert found.reasons == ()
    assert [batch.batch_size for batch in found.batches] == list(SIZES)
    assert (found.agreement, found.max_logit_difference, found.row_difference) == (1.0, 0.0, 0.0)
    assert found.kl < 1e-12
    assert found.row_consistency
    # Every image at every size, the rest of the last batch too, and a batch of one image repeated.
    expected = [1] * 500 + [3] * 166 + [2] + [8] * 62 + [4] + [16] * 31 + [4] + [1, 3, 8, 16]
    assert sorted(engine.sizes) == sorted(expected)
    assert "verified on 500 images: 100.00% the same class" in str(found)
    assert "\n" not in str(found)


def test_rows_come_shuffled_and_the_same_way_for_the_same_seed():
    def orders(seed):
        seen = []

        def note(images, logits):
            seen.append(number_of(images).tolist())
            return logits

        prove(note, sizes=(16,), seed=seed)
        return seen

    first = orders(0)
    assert first[0] != list(range(16))
    *batches, identical = first
    assert sorted(number for batch in batches for number in batch) == list(range(500))
    assert len(set(identical)) == 1
    assert first == orders(0)
    assert first != orders(1)


def test_few_images_prove_nothing_unless_told():
    found, _ = prove(images=IMAGES[:499])
    assert not found.accepted
    assert found.reasons == ("499 images prove nothing: at least 500 are needed",)
    assert prove(images=IMAGES[:499], bounds=Bounds(least_images=100))[0].accepted


def test_a_batch_larger_than_the_images_is_filled():
    found, engine = prove(images=IMAGES[:6], bounds=Bounds(least_images=6))
    assert found.accepted
    assert max(engine.sizes) == 16


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused(value, tmp_path):
    def overflow(images, logits):
        if len(images) == 8:
            logits[number_of(images) == 7, 2] = value
        return logits

    found, _ = prove(overflow)
    assert not found.accepted
    assert found.reasons == (
        "logits of 1 images are not finite at batch size 8: an overflow in its precision",
    )
    assert (found.agreement, found.kl, found.max_logit_difference) == (None, None, None)
    assert not found.row_consistency
    engine = tmp_path / "model.onnx"
    engine.write_bytes(b"engine")
    write_report(engine, found)  # in JSON that every reader takes
    assert read_report(engine) == found


def test_one_of_500_classes_changed_is_refused_and_named():
    def flip(images, logits):
        return torch.where((number_of(images) == 123)[:, None], -logits, logits)

    found, _ = prove(flip, names=[f"{row}.png" for row in range(500)])
    assert not found.accepted
    assert found.agreement == pytest.approx(0.998)
    assert any(reason.startswith("99.80% have the same class") for reason in found.reasons)
    assert any(reason.startswith("123.png changes its class") for reason in found.reasons)
    (flipped,) = found.batches[0].flips
    assert (flipped.image, flipped.reference_class) == ("123.png", 123 % CLASSES)


def flip_of_one_in_a_thousand(gap):
    """Change image 10 between two classes that are this many pixel values apart."""
    images = pictures(1000)
    images[10, 0, 0, :CLASSES] = torch.tensor([200, 200 - gap, 0, 0, 0], dtype=torch.uint8)

    def flip(images, logits):
        chosen = number_of(images) == 10
        logits[chosen] = logits[chosen][:, [1, 0, 2, 3, 4]]
        return logits

    return prove(flip, images=images, bounds=Bounds(most_kl=1.0))[0]


def test_a_change_between_nearly_equal_classes_is_within_bounds():
    images = pictures(1000)
    images[10, 0, 0, :CLASSES] = torch.tensor([200, 200, 0, 0, 0], dtype=torch.uint8)

    def flip(images, logits):
        logits[number_of(images) == 10, 1] += 0.001
        return logits

    found, _ = prove(flip, images=images)
    assert found.accepted
    assert found.agreement == pytest.approx(0.999)
    assert found.batches[0].flips[0].margin < 0.02


def test_a_change_against_a_margin_is_refused():
    found = flip_of_one_in_a_thousand(gap=6)
    assert found.agreement == pytest.approx(0.999)
    assert not found.accepted
    (reason,) = found.reasons
    assert "changes its class at batch size 1 against a margin of 0.07" in reason


def test_probabilities_may_not_drift_even_when_classes_agree():
    found, _ = prove(lambda images, logits: logits * 0.97)
    assert found.agreement == 1.0
    (reason,) = found.reasons
    assert reason.startswith("KL ")
    assert not found.accepted


def test_a_row_that_depends_on_its_neighbours_is_found():
    """The classes stay the same, and so does the divergence on average."""

    def mix(images, logits):
        chosen = (number_of(images) == 42) & (images[:, 1, 0, 0].min() != images[:, 1, 0, 0].max())
        return torch.where(chosen[:, None], logits * 0.3, logits)

    found, _ = prove(mix, bounds=Bounds(most_kl=0.01))
    assert found.agreement == 1.0
    assert not found.row_consistency
    (reason,) = found.reasons
    assert reason.startswith("a row depends on its neighbours: a probability of 42 moves by 0.")


def test_a_place_in_the_batch_that_answers_differently_is_found():
    def last_place(images, logits):
        if len(images) > 1 and bool((number_of(images) == number_of(images)[0]).all()):
            logits[-1] *= 0.5
        return logits

    found, _ = prove(last_place)
    assert not found.accepted
    assert not found.row_consistency
    (reason,) = found.reasons
    assert " times one image come back 0." in reason


def test_an_answer_of_another_shape_is_a_fault():
    with pytest.raises(FaultError, match=r"shape \(1, 5\) instead of \(3, 5\)"):
        prove(lambda images, logits: logits[:1], sizes=(3,))


def test_a_model_that_is_not_finite_is_no_reference():
    def broken(images):
        logits = Reference()(images)
        logits[0] = float("nan")
        return logits

    with pytest.raises(InputError, match="the model itself gives logits that are not finite"):
        verify(FakeEngine(), broken, IMAGES, batch_sizes=SIZES)


def test_names_and_images_go_together():
    with pytest.raises(InputError, match="500 images with 2 names"):
        prove(names=["a", "b"])


def test_the_reference_computes_in_full_fp32():
    seen = []

    def reference(images):
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return Reference()(images)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        verify(FakeEngine(), reference, IMAGES, batch_sizes=(16,))
        assert set(seen) == {("highest", False)}
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_report_belongs_to_the_content_of_its_engine(tmp_path):
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"an engine")
    found, _ = prove(names=[f"{row}.png" for row in range(500)])
    assert read_report(engine) is None
    path = write_report(engine, found)
    assert path == report_path(engine)
    assert path.parent == tmp_path
    assert read_report(engine) == found
    content = json.loads(path.read_text())
    assert content["images"][499] == "499.png"
    assert (content["schema"], content["agreement"], content["row_consistency"]) == (1, 1.0, True)
    assert content["bounds"]["least_agreement"] == 0.999
    assert "torch" in content["versions"]
    engine.write_bytes(b"another engine")
    assert read_report(engine) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', "\x00"])
def test_a_damaged_report_vouches_for_nothing(tmp_path, text):
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"an engine")
    report_path(engine).write_text(text)
    assert read_report(engine) is None


@pytest.mark.parametrize(
    ("optimal", "maximum", "sizes"),
    [(1, 1, (1,)), (2, 2, (1, 2)), (2, 4, (1, 2, 3, 4)), (32, 64, (1, 32, 43, 64))],
)
def test_sizes_hold_one_an_odd_one_the_optimal_and_the_largest(optimal, maximum, sizes):
    assert proof_batch_sizes(optimal, maximum) == sizes
