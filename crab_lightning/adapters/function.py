"""The adapted linear layer as one differentiable operation with its own backward pass.

Symbols: L tokens, h inputs, d outputs, r rank, n heads. With z = drop(x) Aᵀ and routes S = softmax(logits),
``y = x Wᵀ + b + gain * sum_i S_i * (z B_iᵀ)``, where gain is alpha / r. One matrix B ``(d, n*r)`` holds all
heads. It multiplies u, the outer product of S and z, flattened to ``(L, n*r)``.

Plain autograd would keep u and, with dropout, a masked copy of x and the mask. This operation keeps z
``(L, r)`` and S (float32, ``(L, n)``) beside x, and computes u and the mask again in the backward pass.

The mask is as large as x, so it is not kept: forward and backward draw it from the same seed. Each raw 64-bit
number gives four decisions of 16 bits. The dropout of torch draws one number for each element, which takes
longer on a CPU than the matrix products of the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from crab_lightning.compat import softmax_backward

_LANES = 1 << 16
# A block is wide enough for an efficient matrix product, and small enough to stay in the cache of a core.
_BLOCK_COLUMNS = 1 << 10


def drop_count(p: float) -> int:
    """Return how many of the 65536 equally likely values drop an element; at least 1, at most 65535."""
    return min(max(round(p * _LANES), 1), _LANES - 1)


def keep_scale(p: float) -> float:
    """Return the factor that keeps the mean of ``x``, for the dropout probability after rounding."""
    return _LANES / (_LANES - drop_count(p))


def draw_seed() -> int:
    """Draw the seed of a mask from torch's CPU generator.

    ``seed_everything`` sets the state of this generator, and gradient checkpointing restores it, so a layer
    that is computed again draws the same mask as the first time.
    """
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_())


def dropped(x: Tensor, keep: Tensor) -> Tensor:
    """Return ``x`` with zeros where ``keep`` (int16) is 0."""
    if x.element_size() == 2:
        # The integer product of the bit patterns is one vectorised pass and needs no conversion of the mask.
        return (x.view(torch.int16) * keep).view(x.dtype)
    return x * keep


def mask_blocks(
    rows: int, columns: int, p: float, seed: int, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Draw the mask of ``seed`` over ``(rows, columns)``, one block of neighbouring columns after the other.

    Args:
        rows: Number of tokens L.
        columns: Number of inputs h.
        p: Probability with which an element is dropped, rounded to a multiple of 1/65536.
        seed: Seed from ``draw_seed``. The same seed gives the same mask for the same shape and device.
        device: Device on which the mask is made.

    Yields:
        A slice of c columns, and the mask of these columns, int16 ``(L, c)``: 1 keeps and 0 drops.
    """
    threshold = drop_count(p) - _LANES // 2
    if device.type != "cpu":
        # On an accelerator one large operation is fastest.
        generator = torch.Generator(device=device).manual_seed(seed)
        words = torch.empty(-(-rows * columns // 4), dtype=torch.int64, device=device)
        words.random_(-(2**63), None, generator=generator)
        yield slice(0, columns), _lanes(words, rows, columns).ge_(threshold)
        return
    # numpy's SFC64 generator needs half the time of torch's Mersenne twister.
    raw = np.random.SFC64(seed).random_raw
    for left in range(0, columns, _BLOCK_COLUMNS):
        width = min(_BLOCK_COLUMNS, columns - left)
        words = torch.from_numpy(raw(-(-rows * width // 4)).view(np.int64))
        yield slice(left, left + width), _lanes(words, rows, width).ge_(threshold)


def _lanes(words: Tensor, rows: int, columns: int) -> Tensor:
    return words.view(torch.int16)[: rows * columns].view(rows, columns)


RouteSink = Callable[[Tensor], None]
Product = Callable[[Tensor, Tensor], Tensor]


class Call(NamedTuple):
    """Arguments of one call of an adapted layer that are not tensors with gradients.

    Args:
        gain: Scale of the update; a tensor ``(n,)`` if each head has its own factor.
        dropout: Dropout probability of the input of A; with 0 no mask is drawn.
        route_reads_x: True if the router is ``(n, h)`` and reads x, False if it is ``(n, r)`` and reads z.
        dtype: Type in which everything is computed.
        sink: Function that receives the routes ``(L, n)``, in float32 or wider, while they are recorded.
    """

    gain: float | Tensor
    dropout: float
    route_reads_x: bool
    dtype: torch.dtype
    sink: RouteSink | None = None


def adapted_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, route: Tensor | None, call: Call
) -> Tensor:
    """Apply a linear layer and its low-rank update.

    Args:
        x: ``(..., h)``.
        weight: ``(d, h)``, the base weight.
        bias: ``(d,)`` or None.
        a: ``(r, h)``.
        b: ``(d, n*r)``, head i in columns ``i*r`` to ``(i+1)*r``.
        route: ``(n, r)`` or ``(n, h)``; None for plain LoRA.
        call: The other arguments.

    Returns:
        ``(..., d)`` in ``call.dtype``.
    """
    if torch.is_grad_enabled():
        out: Tensor = _AdaptedLinear.apply(x, weight, bias, a, b, route, call)
        return out
    with no_autocast(x.device.type):
        return _forward(x, weight, bias, a, b, route, call)[0]


def low_rank_update(
    x: Tensor, a: Tensor, b: Tensor, route: Tensor | None, call: Call, product: Product = F.linear
) -> Tensor:
    """Return only the update, with plain autograd, for base layers whose forward is not ``F.linear``.

    Args:
        x: ``(..., h)``.
        a: ``(r, h)``; around experts with a first dimension E, as ``b`` and ``route``.
        b: ``(d, n*r)``.
        route: ``(n, r)`` or ``(n, h)``; None for plain LoRA.
        call: The other arguments.
        product: Function that multiplies rows with the transpose of a weight; for experts it chooses the
            weight of each row.

    Returns:
        ``(..., d)`` in ``call.dtype``.
    """
    with no_autocast(x.device.type):
        x, a, b = x.to(call.dtype), a.to(call.dtype), b.to(call.dtype)
        z = product(F.dropout(x, call.dropout), a)
        if route is None:
            return product(z * float(call.gain), b)
        logits = product(x if call.route_reads_x else z, route.to(call.dtype))
        routes = torch.softmax(logits, -1, dtype=torch.promote_types(call.dtype, torch.float32))
        if call.sink is not None:
            call.sink(routes.detach())
        return product(spread((routes * call.gain).to(call.dtype), z), b)


def no_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Return a context in which autocast is off."""
    # All casts are explicit here; autocast would cast the float32 routes to fewer bits.
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def spread(coefficients: Tensor, z: Tensor) -> Tensor:
    """Return the outer product of each token's coefficients and z: ``(L, n)``, ``(L, r)`` to ``(L, n*r)``."""
    return (coefficients.contiguous().unsqueeze(-1) * z.unsqueeze(-2)).flatten(-2)


def add_product(y: Tensor, update: Tensor, b: Tensor, gain: float) -> None:
    """Add ``gain * update Bᵀ`` to ``y`` in place."""
    outputs = y.shape[-1]
    # oneDNN computes the bfloat16 product with a transposed B up to a third faster in slices.
    width = 1024 if y.dtype == torch.bfloat16 and y.device.type == "cpu" else outputs
    for i in range(0, outputs, width):
        y[:, i : i + width].addmm_(update, b[i : i + width].t(), alpha=gain)


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, route: Tensor | None, call: Call
) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Return the output, z, the routes (None without a router) and the seed of the mask."""
    dtype = call.dtype
    x = x.to(dtype)
    y = F.linear(x, weight.to(dtype), None if bias is None else bias.to(dtype))
    tokens = x.reshape(-1, x.shape[-1])
    seed = 0
    if call.dropout:
        seed = draw_seed()
        z = _masked_product(tokens, a.to(dtype), call.dropout, seed)
    else:
        z = tokens @ a.to(dtype).t()
    if route is None or route.shape[0] == 1:
        # The softmax of one logit is 1 and its gradient is 0, so a single head is plain LoRA.
        update, gain, routes = z, float(call.gain), None
        if call.sink is not None and route is not None:
            call.sink(torch.ones(z.shape[0], 1, dtype=torch.float32, device=z.device))
    else:
        logits = (tokens if call.route_reads_x else z) @ route.to(dtype).t()
        # All tokens of a head lie side by side: a softmax over n neighbouring values takes ten times as
        # long on a CPU.
        routes = torch.softmax(logits.t(), 0, dtype=torch.promote_types(dtype, torch.float32)).t()
        if call.sink is not None:
            call.sink(routes)
        update, gain = spread((routes * call.gain).to(dtype), z), 1.0
    add_product(y.view(-1, y.shape[-1]), update, b.to(dtype), gain)
    return y, z, routes, seed


class _AdaptedLinear(torch.autograd.Function):
    # The weights are inputs and not attributes, because FSDP gathers them again before the backward pass into
    # the same tensors that were saved here.

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        route: Tensor | None,
        call: Call,
    ) -> Tensor:
        with no_autocast(x.device.type):
            y, z, routes, ctx.seed = _forward(x, weight, bias, a, b, route, call)
        ctx.call = call
        ctx.save_for_backward(x, weight, bias, a, b, route, z, routes)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with no_autocast(grad.device.type):
            return _backward(ctx, grad)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, a, b, route, z, routes = ctx.saved_tensors
    need_x, need_weight, need_bias, need_a, need_b, need_route, _ = ctx.needs_input_grad
    call: Call = ctx.call
    dtype = call.dtype
    rank = a.shape[0]
    tokens = x.to(dtype).reshape(-1, x.shape[-1])
    g = grad.to(dtype).reshape(-1, grad.shape[-1])

    du = g @ b.to(dtype)
    d_route = d_logits = None
    if routes is None:
        update, dz = z * float(call.gain), du * float(call.gain)
        d_route = torch.zeros_like(route) if need_route else None
    else:
        coefficients = (routes * call.gain).to(dtype)
        update = spread(coefficients, z)
        heads = du.view(-1, routes.shape[-1], rank)
        dz = torch.bmm(coefficients.unsqueeze(1), heads).squeeze(1)
        d_routes = (heads * z.unsqueeze(1)).sum(-1).to(routes.dtype) * call.gain
        d_logits = softmax_backward(d_routes.t(), routes.t(), 0)
        d_logits = d_logits.t().contiguous().to(dtype)
        if need_route:
            d_route = (d_logits.t() @ (tokens if call.route_reads_x else z)).to(route.dtype)
        if not call.route_reads_x:
            dz.addmm_(d_logits, route.to(dtype))
    d_b = (g.t() @ update).to(b.dtype) if need_b else None

    d_x = g @ weight.to(dtype) if need_x else None
    d_a = None
    if call.dropout:
        dz *= keep_scale(call.dropout)
        d_a = _masked_backward(tokens, dz, a.to(dtype), d_x, need_a, call.dropout, ctx.seed)
    else:
        if need_a:
            d_a = dz.t() @ tokens
        if d_x is not None:
            d_x.addmm_(dz, a.to(dtype))
    if d_x is not None and d_logits is not None and call.route_reads_x:
        d_x.addmm_(d_logits, route.to(dtype))
    return (
        None if d_x is None else d_x.view(x.shape).to(x.dtype),
        (g.t() @ tokens).to(weight.dtype) if need_weight else None,
        g.sum(0).to(bias.dtype) if need_bias else None,
        None if d_a is None else d_a.to(a.dtype),
        d_b,
        d_route,
        None,
    )


def _masked_product(tokens: Tensor, a: Tensor, p: float, seed: int) -> Tensor:
    """Return ``drop(x) Aᵀ``, with the scale that keeps the mean."""
    # The sum over bfloat16 blocks is rounded only once, as inside one product.
    wide = torch.promote_types(a.dtype, torch.float32)
    total = torch.zeros(tokens.shape[0], a.shape[0], dtype=wide, device=a.device)
    for columns, keep in mask_blocks(tokens.shape[0], tokens.shape[1], p, seed, tokens.device):
        total += dropped(tokens[:, columns], keep) @ a[:, columns].t()
    return total.mul_(keep_scale(p)).to(a.dtype)


def _masked_backward(
    tokens: Tensor, dz: Tensor, a: Tensor, d_x: Tensor | None, need_a: bool, p: float, seed: int
) -> Tensor | None:
    """Add the masked gradient to ``d_x`` in place; return the gradient of A if it is needed."""
    d_a = torch.empty_like(a) if need_a else None
    for columns, keep in mask_blocks(tokens.shape[0], tokens.shape[1], p, seed, tokens.device):
        if d_a is not None:
            torch.mm(dz.t(), dropped(tokens[:, columns], keep), out=d_a[:, columns])
        if d_x is not None:
            d_x[:, columns].add_(dropped(dz @ a[:, columns], keep))
    return d_a
