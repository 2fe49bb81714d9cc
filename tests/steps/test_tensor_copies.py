import torch

from gpuopt.steps.tensor_copies import TensorCopies


def taken(copies, tensors):
    """The copied numbers of each tensor."""
    found = {}
    for members, numbers in copies.take(list(range(len(tensors))), tensors):
        parts = torch.split(numbers, [tensors[index].numel() for index in members])
        found.update(zip(members, parts, strict=True))
    return [found[index].tolist() for index in range(len(tensors))]


def expected(tensors):
    return [tensor.reshape(-1).tolist() for tensor in tensors]


def test_tensors_of_several_kinds_are_copied_again_and_again():
    copies = TensorCopies()
    tensors = [torch.ones(2, 3), torch.tensor(5), torch.tensor([True]), torch.zeros(4)]
    for step in range(3):
        tensors[0] += 1
        tensors[1] += step
        assert taken(copies, tensors) == expected(tensors)
    before = copies.take([0], [tensors[0]])[0][1]
    tensors[0] += 1
    assert before.tolist() == [4.0] * 6  # a copy


def test_other_tensors_and_other_memory_are_noticed():
    copies = TensorCopies()
    tensors = [torch.ones(3), torch.zeros(2)]
    assert taken(copies, tensors) == expected(tensors)
    tensors[1] = torch.full((2,), 7.0)
    assert taken(copies, tensors) == expected(tensors)
    tensors[0].data = torch.full((3,), 8.0)  # as `Module.to` does
    assert taken(copies, tensors) == expected(tensors)
    assert taken(copies, tensors[:1]) == expected(tensors[:1])
    assert taken(copies, []) == []


def test_tensors_that_have_to_be_rearranged_are_read_each_time():
    copies = TensorCopies()
    tensors = [torch.arange(6.0).view(2, 3).T]
    for _ in range(2):
        tensors[0] += 1
        assert taken(copies, tensors) == expected(tensors)
