import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gpuopt.memory.autocast import emulate_cuda


class Recorder(nn.Module):
    """A small network that notes the number format after each operation."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.LayerNorm(8)
        self.second = nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.seen = []

    def block(self, images):
        x = self.first(images)
        self.seen.append(x.dtype)
        x = self.norm(x.mean((2, 3)))
        self.seen.append(x.dtype)
        x = self.second(x)
        self.seen.append(x.dtype)
        x = x * self.scale
        self.seen.append(x.dtype)
        return x.softmax(-1)

    def forward(self, images):
        return self.block(images)


HALF_RUN = [torch.bfloat16, torch.float32, torch.bfloat16, torch.float32]


def images():
    return torch.empty(2, 3, 8, 8, device="meta")


def build(half):
    with torch.device("meta"):
        model = Recorder()
    emulate_cuda(model).begin(half=half)
    return model


def test_formats_are_those_of_cudas_autocast():
    model = build(half=True)
    assert model(images()).dtype == torch.float32
    assert model.seen == HALF_RUN


def test_without_half_precision_everything_stays_fp32():
    model = build(half=False)
    model(images())
    assert set(model.seen) == {torch.float32}


def test_blocks_recomputed_in_backward_run_in_the_same_formats():
    model = build(half=True)
    out = checkpoint(model, images().requires_grad_(), use_reentrant=False)
    torch.autograd.backward(out.sum())
    assert model.seen[:4] == HALF_RUN
    assert len(model.seen) > 4
    assert model.seen[4:] == HALF_RUN[: len(model.seen) - 4]


def test_attention_with_mask_and_grouped_heads_keeps_its_shape():
    class Attention(nn.Module):
        def forward(self, query, key, mask):
            return nn.functional.scaled_dot_product_attention(
                query, key, key, attn_mask=mask, enable_gqa=True
            )

    model = Attention()
    emulate_cuda(model).begin(half=True)
    query = torch.empty(2, 8, 10, 16, device="meta", requires_grad=True)
    key = torch.empty(2, 4, 12, 16, device="meta")
    mask = torch.empty(10, 12, dtype=torch.bool, device="meta")
    out = model(query, key, mask)
    assert out.shape == (2, 8, 10, 16)
    assert out.dtype == torch.bfloat16
