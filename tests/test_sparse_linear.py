"""The linear layer that leaves zeros out, and the two kernels beside it in the network of a count VAE."""

import pytest
import torch
from torch.nn.functional import group_norm, log_softmax

from stormcell.nn import sparse_linear
from stormcell.nn.count_vae import BlockNorm, _LogShare
from stormcell.nn.sparse_linear import SparseLinear


def counts(n, width, share, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, width, generator=generator)
    return x * (torch.rand(n, width, generator=generator) < share)


@pytest.mark.parametrize("width", [1, 3, 4, 257])
@pytest.mark.parametrize("share", [0.0, 0.08, 0.24, 0.26, 1.0])
def test_product_and_gradients_are_those_of_the_dense_layer(width, share):
    layer, x = SparseLinear(width, 33), counts(19, width, share)
    x[7] = 0  # a row without an entry
    out = layer(x)
    grad = torch.randn(19, 33, generator=torch.Generator().manual_seed(1))
    out.backward(grad)
    expected = x.double() @ layer.weight.double() + layer.bias.double()
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.weight.grad.double(), x.double().T @ grad.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.bias.grad, grad.sum(0), rtol=1e-5, atol=1e-6)


def test_zeros_are_left_out_only_where_it_pays(monkeypatch):
    layer, used = SparseLinear(40, 5), []
    product = sparse_linear._Product.apply
    monkeypatch.setattr(sparse_linear._Product, "apply", lambda *given: used.append(1) or product(*given))
    for x, sparse in (
        (counts(10, 40, 0.1), True),
        (counts(10, 40, 0.5), False),
        (counts(10, 40, 0.1).double(), False),
        (counts(10, 40, 0.1).requires_grad_(), False),  # the sparse path gives x no gradient
    ):
        used.clear()
        (layer if x.dtype == torch.float32 else layer.double())(x)
        layer.float()
        assert bool(used) == sparse


def test_an_input_that_asks_for_a_gradient_gets_it():
    layer, x = SparseLinear(40, 5), counts(10, 40, 0.1).requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(1).expand(10, 40))


def test_a_row_does_not_depend_on_the_rows_beside_it():
    layer, x = SparseLinear(300, 16), counts(50, 300, 0.1)
    assert torch.equal(layer(x)[20:30], layer(x[20:30]))


@pytest.mark.parametrize("blocks", [1, 3])
def test_block_norm_is_group_norm(blocks):
    norm, x = BlockNorm(blocks, 12), torch.randn(7, 12, generator=torch.Generator().manual_seed(2)).double()
    norm = norm.double()
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    torch.testing.assert_close(norm(x), group_norm(x, blocks, norm.weight, norm.bias, norm.eps))


@pytest.mark.parametrize("rest", [-torch.inf, -3.0, 2.0])
def test_log_share_is_a_softmax_with_one_output_more(rest):
    rest = torch.tensor(rest, dtype=torch.float64)
    logits = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    expected = log_softmax(torch.cat([logits, rest.expand(6, 1)], -1), -1)[:, :-1]
    torch.testing.assert_close(_LogShare.apply(logits, rest), expected)
    assert torch.autograd.gradcheck(lambda x: _LogShare.apply(x, rest), logits)
