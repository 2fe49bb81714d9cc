import copy

import pytest
import timm
import torch
from torch import nn

from gpuopt.errors import InputError
from gpuopt.recomputation.apply import apply_checkpointing, count_stages
from gpuopt.recomputation.stages import stages_of

# A net with layer norms, and one with BatchNorm, dropout and stochastic depth.
NETS = {
    "layer norm": ("test_vit", {}),
    "batch norm": ("test_efficientnet", {"drop_rate": 0.3, "drop_path_rate": 0.3}),
}


def network(name="test_efficientnet", dtype=torch.float64, **options):
    torch.manual_seed(0)
    size = {"img_size": 64} if name == "test_vit" else {}
    return timm.create_model(name, num_classes=5, **size, **options).to(dtype).train()


def run(net, passes=2):
    """Return gradients, buffers, losses and the generator's state after some passes."""
    torch.manual_seed(1)
    dtype = next(net.parameters()).dtype
    losses = []
    for number in range(passes):
        generator = torch.Generator().manual_seed(number)
        images = torch.randn(4, 3, 64, 64, generator=generator).to(dtype)
        loss = net(images).logsumexp(1).mean()
        loss.backward()
        losses.append(loss.detach())
    gradients = {name: p.grad for name, p in net.named_parameters()}
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    return gradients, buffers, torch.stack(losses), torch.get_rng_state()


def assert_same(one, other):
    for left, right in zip(one[:2], other[:2], strict=True):
        assert left.keys() == right.keys()
        for name in left:
            assert torch.equal(left[name], right[name]), name
    assert torch.equal(one[2], other[2])
    assert torch.equal(one[3], other[3])


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("level", ["stages=1", "full"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_buffers_and_random_numbers_are_those_of_the_plain_net(kind, level, dtype):
    name, options = NETS[kind]
    plain, recomputed = (network(name, dtype, **options) for _ in range(2))
    assert apply_checkpointing(recomputed, level) >= 1
    expected = run(plain)
    assert_same(run(recomputed), expected)
    if kind == "batch norm":
        assert any("running_mean" in name for name in expected[1])


def test_the_statistics_would_move_twice_without_the_guard():
    """The defect that is fixed (pytorch#96136), as timm's own checkpointing shows it."""
    plain, timms, ours = network(), network(), network()
    timms.set_grad_checkpointing(True)
    apply_checkpointing(ours, "full")
    name = "blocks.0.0.bn1.num_batches_tracked"
    counts = [run(net)[1][name].item() for net in (plain, timms, ours)]
    assert counts == [2, 4, 2]


def count_forwards(net, stages):
    calls = []
    for number, stage in enumerate(stages):
        for block in stage:
            inner = next(part for part in block.modules() if not list(part.children()))
            inner.register_forward_hook(lambda *_, number=number: calls.append(number))
    run(net, passes=1)
    return [calls.count(number) / len(stage) for number, stage in enumerate(stages)]


def test_the_first_stages_run_twice_and_the_others_once():
    net = network()
    stages = stages_of(net)
    apply_checkpointing(net, "stages=2")
    times = count_forwards(net, stages)
    assert times == [2, 2] + [1] * (len(stages) - 2)


def test_another_level_replaces_the_first_and_none_leaves_no_trace():
    net = network()
    before = {id(part): set(vars(part)) for part in net.modules()}
    assert apply_checkpointing(net, "full") == count_stages(net)
    apply_checkpointing(net, "stages=1")
    assert count_forwards(net, stages_of(net))[:2] == [2, 1]
    apply_checkpointing(net, "none")
    assert {id(part): set(vars(part)) for part in net.modules()} == before


def test_less_is_kept_for_backward_at_every_level():
    def kept_bytes(level):
        net, sizes = network("test_vit"), {}
        apply_checkpointing(net, level)

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            net(torch.randn(2, 3, 64, 64, dtype=torch.float64))
        return sum(sizes.values())

    sizes = [kept_bytes(level) for level in ("none", "stages=1", "stages=3", "full")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


def test_a_copy_runs_its_own_blocks():
    net = network("test_vit")
    apply_checkpointing(net, "full")
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    plain = network("test_vit")
    assert_same(run(other), run(plain))


class Counting(nn.Module):
    """A block whose result depends on a buffer that every pass changes, by a new tensor."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("fixed", torch.arange(4.0))

    def forward(self, values, *, scale):
        self.count = self.count + 1
        return torch.tanh(self.linear(values) * self.count * scale + self.fixed)


class Custom(nn.Module):
    """Not of timm: stages by custom, blocks with keyword arguments."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.ModuleList(Counting() for _ in range(2)) for _ in range(3))

    def forward(self, values):
        for stage in self.stages:
            for block in stage:
                values = block(values, scale=2.0)
        return values


def gradients_of_custom(level, passes=3):
    torch.manual_seed(0)
    net = Custom().double()
    assert apply_checkpointing(net, level) == {"none": 0, "stages=2": 2, "full": 3}[level]
    for _ in range(passes):
        net(torch.ones(2, 4, dtype=torch.float64)).sum().backward()
    return [p.grad for p in net.parameters()], [b.clone() for b in net.buffers()]


@pytest.mark.parametrize("level", ["stages=2", "full"])
def test_a_second_pass_sees_the_buffers_of_the_first_in_any_network(level):
    for one, other in zip(gradients_of_custom(level), gradients_of_custom("none"), strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, values):
        return torch.tanh(self.linear(sum(values)))


class Dense(nn.Module):
    """Blocks that are given one list, which grows."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Sum() for _ in range(3))

    def forward(self, values):
        values = [values]
        for block in self.blocks:
            values.append(block(values))
        return values[-1]


def test_a_list_that_grows_afterwards_is_seen_as_it_was():
    gradients = []
    for level in ("none", "full"):
        torch.manual_seed(0)
        net = Dense()
        apply_checkpointing(net, level)
        net(torch.ones(2, 4)).sum().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_stages_may_be_given():
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    assert count_stages(net) == 0
    assert apply_checkpointing(net, "stages=1", stages=[[net[1]]]) == 1
    net(torch.ones(1, 4)).sum().backward()
    assert net[1][0].weight.grad is not None


def test_an_error_in_the_second_pass_gives_the_buffers_back():
    net = network()
    apply_checkpointing(net, "full")
    loss = net(torch.randn(2, 3, 64, 64, dtype=torch.float64)).sum()
    before = {name: (buffer, buffer.clone()) for name, buffer in net.named_buffers()}
    block = stages_of(net)[1][0]

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    block.bn2.register_forward_pre_hook(fail)  # behind one that has been computed again
    with pytest.raises(torch.OutOfMemoryError):
        loss.backward()
    for name, buffer in net.named_buffers():
        assert buffer is before[name][0]
        assert torch.equal(buffer, before[name][1])


def test_validation_computes_once():
    net = network().eval()
    stages = stages_of(net)
    apply_checkpointing(net, "full")
    calls = []
    stages[0][0].bn1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        output = net(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    assert len(calls) == 1
    assert not output.requires_grad


@pytest.mark.parametrize(
    ("name", "level", "message"),
    [
        ("test_efficientnet", "stages=99", "the network has 5 stages"),
        ("test_efficientnet", "half", "not one of none, auto, full"),
        ("test_efficientnet", "stages=0", "K from 1"),
        ("test_efficientnet", "auto", "settled by `gpuopt train`"),
        ("vgg11", "full", "no activation checkpointing"),
    ],
)
def test_what_cannot_be_done_is_refused(name, level, message):
    with torch.device("meta"):
        net = timm.create_model(name)
    with pytest.raises(InputError, match=message):
        apply_checkpointing(net, level)


def test_a_network_without_stages_is_refused():
    with pytest.raises(InputError, match="no stages"):
        apply_checkpointing(nn.Linear(2, 2), "full")


class Normed(nn.Module):
    """As small as a network with BatchNorm and dropout can be, for the compiler."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5))
            for _ in range(2)
        )

    def forward(self, values):
        for block in self.blocks:
            values = values + block(values)
        return values


def gradients_of_normed(level, *, is_compiled):
    torch.manual_seed(0)
    torch.compiler.reset()
    net = Normed().double()
    apply_checkpointing(net, level)
    if is_compiled:
        net.compile(backend="aot_eager")
    torch.manual_seed(1)
    for number in range(2):
        net(torch.linspace(-1, 2 + number, 48, dtype=torch.float64).view(8, 6)).sum().backward()
    return [p.grad for p in net.parameters()], [b.clone() for b in net.buffers()]


def test_a_compiled_net_has_the_same_gradients_and_moves_its_statistics_once():
    plain = gradients_of_normed("none", is_compiled=False)
    compiled = gradients_of_normed("full", is_compiled=True)
    for one, other in zip(compiled, plain, strict=True):
        for left, right in zip(one, other, strict=True):
            assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)
