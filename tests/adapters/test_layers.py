from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crab_lightning.adapters import ADAPTERS, AdapterConfig, ILoRALinear, LoRALinear
from crab_lightning.adapters.function import draw_seed, drop_count, dropped, keep_scale, mask_blocks
from tests.adapters.statement import make_layer, stated

KINDS = [("lora", "latent"), ("ilora", "latent"), ("ilora", "input")]
BF16 = torch.bfloat16


def masked(x: Tensor, p: float, seed: int) -> Tensor:
    out = torch.full_like(x, torch.nan)
    for columns, keep in mask_blocks(*x.shape, p, seed, x.device):
        out[:, columns] = dropped(x[:, columns], keep)
    return out


def mask_of(layer: LoRALinear, x: Tensor, seed: int) -> Tensor:
    """Return the mask that the layer draws next after ``torch.manual_seed(seed)``."""
    torch.manual_seed(seed)
    ones = torch.ones_like(x).reshape(-1, x.shape[-1])
    return masked(ones, layer.config.dropout, draw_seed()).view_as(x)


@pytest.mark.parametrize("shape", [(10,), (7, 10), (2, 5, 10), (2, 3, 4, 10), (0, 10), (2, 0, 10)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "router"), KINDS)
def test_output_and_gradients_are_those_of_the_definition(
    kind: str, router: str, bias: bool, shape: tuple[int, ...]
) -> None:
    layer = make_layer(kind, bias=bias, router=router).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [x, *(p for p in layer.parameters() if p.requires_grad)]
    y, wanted = layer(x), stated(layer, x)
    g = torch.randn_like(wanted)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(torch.autograd.grad(y, inputs, g), torch.autograd.grad(wanted, inputs, g))


@pytest.mark.parametrize(("kind", "router"), KINDS)
def test_dropout_acts_on_the_way_to_a_alone_and_backward_sees_the_same_mask(kind: str, router: str) -> None:
    layer = make_layer(kind, router=router, dropout=0.4).double()
    x = torch.randn(3, 50, 10, dtype=torch.float64, requires_grad=True)
    inputs = [x, *(p for p in layer.parameters() if p.requires_grad)]
    keep = mask_of(layer, x.detach(), seed=1)
    torch.manual_seed(1)
    y = layer(x)
    wanted = stated(layer, x, keep, keep_scale(0.4))
    g = torch.randn_like(wanted)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(torch.autograd.grad(y, inputs, g), torch.autograd.grad(wanted, inputs, g))


@pytest.mark.parametrize("dtype", [torch.float64, BF16])
def test_wide_inputs_are_masked_in_blocks_with_the_same_result(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crab_lightning.adapters.function._BLOCK_COLUMNS", 128)
    layer = make_layer(inputs=300, dropout=0.4).to(dtype)
    x = torch.randn(30, 300, dtype=dtype, requires_grad=True)
    assert len(list(mask_blocks(30, 300, 0.4, 1, x.device))) == 3
    keep = mask_of(layer, x.detach(), seed=1)
    torch.manual_seed(1)
    got = torch.autograd.grad(layer(x).sum(), [x, layer.lora_A])
    exact = copy.deepcopy(layer).double()
    leaf = x.detach().double().requires_grad_()
    wanted = torch.autograd.grad(
        stated(exact, leaf, keep.double(), keep_scale(0.4)).sum(), [leaf, exact.lora_A]
    )
    for ours, theirs in zip(got, wanted, strict=True):
        limit = 0.02 if dtype == BF16 else 1e-12
        assert (ours.double() - theirs).norm() < limit * theirs.norm()


def test_wide_bfloat16_outputs_agree_with_the_definition() -> None:
    layer = make_layer(outputs=9000).bfloat16()
    x = torch.randn(5, 10, dtype=BF16)
    wanted = stated(copy.deepcopy(layer).float(), x.float())
    assert (layer(x).float() - wanted).norm() < 0.01 * wanted.norm()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("kind", "router"), KINDS)
def test_gradcheck(kind: str, router: str, dropout: float) -> None:
    layer = make_layer(kind, 5, 6, router=router, rank=2, dropout=dropout).double()
    parameters = {n: p.detach().requires_grad_() for n, p in layer.named_parameters() if p.requires_grad}

    def run(x: Tensor, *values: Tensor) -> Tensor:
        torch.manual_seed(3)  # gradcheck calls this again and again: the mask must not change
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))

    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *parameters.values()))


@pytest.mark.parametrize("router", ["latent", "input"])
def test_one_head_equals_plain_lora_bit_for_bit(router: str) -> None:
    plain = make_layer("lora", 33, 17)
    routed = make_layer("ilora", 33, 17, heads=1, router=router)
    routed.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 9, 33)
    results = []
    for layer in (plain, routed):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.square().sum().backward()
        results.append((y.detach(), leaf.grad, layer.lora_A.grad, layer.lora_B.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
    assert routed.lora_route is not None
    assert torch.equal(routed.lora_route.grad, torch.zeros_like(routed.lora_route))


def test_dropout_is_off_in_evaluation() -> None:
    layer = make_layer(dropout=0.5).eval()
    x = torch.randn(6, 10)
    torch.testing.assert_close(layer(x), stated(layer, x))


def test_mask_drops_the_stated_share_independently() -> None:
    p = 0.1
    keep = masked(torch.ones(2000, 501), p, seed=7)
    count = keep.numel()
    spread = (p * (1 - p) / count) ** 0.5
    assert abs((1 - keep).mean().item() - p) < 4 * spread
    for lane in range(4):  # four draws are cut from each 64-bit word
        share = (1 - keep.flatten()[lane::4]).mean().item()
        assert abs(share - p) < 8 * spread
    both = ((1 - keep[:, :-1]) * (1 - keep[:, 1:])).mean().item()
    assert abs(both - p * p) < 8 * spread
    rows = ((1 - keep[:-1]) * (1 - keep[1:])).mean().item()
    assert abs(rows - p * p) < 8 * spread


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 1 - 1e-9])
def test_rescaling_belongs_to_the_mask_really_drawn(p: float) -> None:
    assert keep_scale(p) * (65536 - drop_count(p)) / 65536 == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, BF16, torch.float16, torch.float64])
def test_mask_is_the_same_in_every_dtype(dtype: torch.dtype) -> None:
    x = torch.randn(70, 1501)
    wanted = x.to(dtype) * (masked(torch.ones_like(x), 0.25, seed=5) != 0).to(dtype)
    assert torch.equal(masked(x.to(dtype), 0.25, seed=5), wanted)
    assert not torch.equal(masked(x.to(dtype), 0.25, seed=6), wanted)


def test_two_calls_draw_two_masks_and_a_seed_repeats_them() -> None:
    layer = make_layer(dropout=0.5)
    x = torch.randn(20, 10)
    torch.manual_seed(0)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(layer(x), first)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_checkpointing_repeats_the_mask_and_gives_the_same_gradients(dropout: float) -> None:
    layer = make_layer(dropout=dropout)
    x = torch.randn(2, 30, 10)
    grads = []
    for checkpointed in (False, True):
        torch.manual_seed(11)
        leaf = x.clone().requires_grad_()
        y = checkpoint(layer, leaf, use_reentrant=False) if checkpointed else layer(leaf)
        torch.rand(5)  # others draw between forward and backward
        grads.append(torch.autograd.grad(y.square().sum(), [leaf, layer.lora_A, layer.lora_B]))
    for ours, theirs in zip(*grads, strict=True):
        assert torch.equal(ours, theirs)


def kept_bytes(layer: nn.Module, x: Tensor) -> int:
    """Return the bytes kept for backward in storages other than the input's and the parameters'."""
    known = {t.untyped_storage().data_ptr() for t in (x, *layer.parameters())}
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = layer(x)
    assert y.grad_fn is not None
    return sum(kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("router", ["latent", "input"])
def test_backward_keeps_the_latent_and_the_routes_and_nothing_else(router: str, dropout: float) -> None:
    tokens, rank, heads = 64, 8, 3
    layer = make_layer(inputs=96, outputs=80, rank=rank, heads=heads, router=router, dropout=dropout)
    layer.bfloat16()
    x = torch.randn(2, tokens // 2, 96, dtype=BF16, requires_grad=True)
    assert kept_bytes(layer, x) == tokens * (2 * rank + 4 * heads)


@pytest.mark.parametrize("router", ["latent", "input"])
def test_autocast_computes_in_bfloat16_and_gives_gradients_in_the_stored_dtype(router: str) -> None:
    layer = make_layer(router=router)
    x = torch.randn(2, 40, 10, requires_grad=True)
    with torch.autocast("cpu", dtype=BF16):
        y = layer(x)
    assert y.dtype == BF16
    y.float().square().sum().backward()
    assert x.grad is not None
    assert {x.grad.dtype, layer.lora_A.grad.dtype, layer.lora_B.grad.dtype} == {torch.float32}
    exact = torch.autograd.grad(stated(layer, x).square().sum(), [x, layer.lora_A, layer.lora_B])
    for got, wanted in zip([x.grad, layer.lora_A.grad, layer.lora_B.grad], exact, strict=True):
        assert (got - wanted).norm() < 0.02 * wanted.norm()


def test_autocast_leaves_float64_alone_as_linear_layers_do() -> None:
    layer = make_layer().double()
    x = torch.randn(3, 10, dtype=torch.float64)
    with torch.autocast("cpu", dtype=BF16):
        assert layer(x).dtype == layer.base(x).dtype == torch.float64


def test_backward_inside_autocast_is_not_cast_again() -> None:
    layer = make_layer()
    x = torch.randn(4, 10)
    wanted = torch.autograd.grad(layer(x).sum(), layer.lora_A)[0]
    y = layer(x)
    with torch.autocast("cpu", dtype=BF16):
        assert torch.equal(torch.autograd.grad(y.sum(), layer.lora_A)[0], wanted)


def test_float32_adapters_work_on_a_bfloat16_base() -> None:
    layer = make_layer(base_dtype=BF16)
    x = torch.randn(5, 10, dtype=BF16, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == BF16
    assert layer.lora_A.dtype == layer.lora_A.grad.dtype == torch.float32
    reference = copy.deepcopy(layer).float()
    torch.testing.assert_close(y.float(), stated(reference, x.float()), atol=0.1, rtol=0.05)


def test_an_input_of_another_type_than_the_base_is_refused_as_linear_layers_do() -> None:
    layer = make_layer(base_dtype=BF16)
    with pytest.raises(
        TypeError, match=r"input is torch\.float32, but the base weight is torch\.bfloat16; cast"
    ):
        layer(torch.randn(5, 10))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_output_is_the_same(context: type) -> None:
    layer = make_layer()
    x = torch.randn(2, 5, 10)
    with context():
        y = layer(x)
    assert not y.requires_grad
    assert torch.equal(y, layer(x))


def test_input_without_gradient_still_trains_the_adapter() -> None:
    layer = make_layer()
    x = torch.randn(5, 10)
    layer(x).sum().backward()
    assert x.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters() if p.requires_grad)


def test_a_strided_input_gives_the_gradients_of_its_copy() -> None:
    layer = make_layer(dropout=0.3)
    wide = torch.randn(4, 10, 6)
    grads = []
    for x in (wide.transpose(1, 2), wide.transpose(1, 2).contiguous()):
        torch.manual_seed(2)
        leaf = x.detach().requires_grad_()
        grads.append(torch.autograd.grad(layer(leaf).square().sum(), [leaf, layer.lora_A]))
    torch.testing.assert_close(grads[0], grads[1])


def test_steps_leave_the_base_bit_equal_and_move_every_adapter_tensor() -> None:
    base = nn.Linear(10, 12)
    layer = ILoRALinear(base, AdapterConfig(rank=4, dropout=0.1))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in layer.parameters() if p.requires_grad], lr=1e-2)
    x, target = torch.randn(32, 10), torch.randn(32, 12)
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(layer(x), target).backward()
        optimizer.step()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("base."), name


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same(copier: object) -> None:
    layer = make_layer(router="input")
    x = torch.randn(3, 10)
    assert torch.equal(copier(layer)(x), layer(x))  # type: ignore[operator]


class DoublingLinear(nn.Linear):
    """Stands for a layer whose forward is not ``F.linear``, such as a quantised one."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(("kind", "router"), KINDS)
def test_a_base_with_its_own_forward_keeps_it(kind: str, router: str) -> None:
    plain = make_layer(kind, router=router).double()
    base = DoublingLinear(10, 12)
    layer = ADAPTERS[kind](base, plain.config).double()
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 5, 10, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(x), stated(plain, x) + plain.base(x))
    got = torch.autograd.grad(layer(x).square().sum(), [x, layer.lora_A, layer.lora_B])
    wanted = (stated(plain, x) + plain.base(x)).square().sum()
    torch.testing.assert_close(got, torch.autograd.grad(wanted, [x, plain.lora_A, plain.lora_B]))
    with torch.autocast("cpu", dtype=BF16):
        assert layer.float()(x.detach().float()).dtype == BF16


def test_hooks_on_the_base_are_called() -> None:
    layer = make_layer()
    seen: list[Tensor] = []
    layer.base.register_forward_hook(lambda module, args, out: seen.append(out))
    layer(torch.randn(3, 10))
    assert len(seen) == 1


def test_only_linear_layers_can_be_wrapped() -> None:
    with pytest.raises(TypeError, match=r"wraps an nn\.Linear, not Conv1d"):
        LoRALinear(nn.Conv1d(2, 2, 1), AdapterConfig())  # type: ignore[arg-type]


def test_meta_layers_are_drawn_after_they_get_memory() -> None:
    layer = ILoRALinear(nn.Linear(10, 12, device="meta"), AdapterConfig(rank=4))
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert layer.lora_A.abs().max() <= 10**-0.5  # the bound of Kaiming-uniform with a = sqrt 5
    assert layer.lora_A.std() > 0.1
    assert not layer.lora_B.any()
