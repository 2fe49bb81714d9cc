import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from gpuopt.errors import InputError
from gpuopt.measure import accuracy, class_counts, confusion_matrix, f1_per_class, macro_f1


def labels(classes=17, samples=800, seed=0):
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, classes, samples)
    wrong = generator.integers(0, classes, samples)
    return targets, np.where(generator.random(samples) < 0.8, targets, wrong)


@pytest.mark.parametrize(("classes", "samples"), [(2, 50), (17, 800), (40, 60)])
def test_metrics_equal_scikit_learn(classes, samples):
    targets, predictions = labels(classes, samples)
    matrix = confusion_matrix(targets, predictions, classes)
    counts = class_counts(matrix)
    np.testing.assert_array_equal(
        matrix, sklearn_confusion(targets, predictions, labels=range(classes))
    )
    assert macro_f1(counts) == pytest.approx(f1_score(targets, predictions, average="macro"))
    assert accuracy(counts) == pytest.approx(accuracy_score(targets, predictions))
    present = np.union1d(targets, predictions)
    np.testing.assert_allclose(
        f1_per_class(counts)[present], f1_score(targets, predictions, average=None)
    )


def test_classes_that_never_occur_do_not_count():
    counts = class_counts(confusion_matrix([0, 1, 1], [0, 1, 0], classes=5))
    assert macro_f1(counts) == pytest.approx(f1_score([0, 1, 1], [0, 1, 0], average="macro"))
    assert np.isnan(f1_per_class(counts)[2:]).all()


def test_a_class_that_is_never_hit_counts_as_zero():
    counts = class_counts(confusion_matrix([0, 1], [0, 2]))
    np.testing.assert_allclose(f1_per_class(counts), [1, 0, 0])
    assert macro_f1(counts) == pytest.approx(1 / 3)


def test_metrics_take_many_matrices_at_once():
    matrices = np.stack([confusion_matrix(*labels(seed=seed), 17) for seed in range(3)])
    values = macro_f1(class_counts(matrices))
    assert values.shape == (3,)
    assert values[1] == pytest.approx(float(macro_f1(class_counts(matrices[1]))))


@pytest.mark.parametrize(
    ("targets", "predictions", "word"),
    [
        ([], [], "with samples"),
        ([0, 1], [0], "equally long"),
        ([[0], [1]], [[0], [1]], "equally long"),
        ([0, -1], [0, 1], "below 0"),
        ([0.5, 1.0], [0, 1], "whole numbers"),
        ([0, 3], [0, 1], "only 3 classes"),
    ],
)
def test_bad_labels_are_refused(targets, predictions, word):
    with pytest.raises(InputError, match=word):
        confusion_matrix(targets, predictions, classes=3)
