"""The head's loss over chunks of tokens: the logits of a chunk, their gradient in their place, and on to the next.

The loss is a scalar, so its gradient is known but for one factor as soon as the logits are. The forward pass therefore
does all the work, where gradients are needed: from a chunk's logits it makes their gradient, multiplies it with weight
and with hidden, and forgets it. The backward pass only scales. That is three matrix products, as many as without
chunks; keeping nothing and computing the logits again would take a fourth, and would save no more than the gradients
themselves, which the backward pass allocates first anyway.

Weight's gradient is a sum over chunks, kept in float32: in bfloat16 each chunk would round it once more. Every chunk
reads and writes the whole sum, which is why chunks are not smaller on a GPU.
"""

import torch
from torch import Tensor

from baby_mamba.errors import BackendUnavailableError
from baby_mamba.ops.linear_cross_entropy import reference

GPU_SHARE = 80  # a chunk's logits take at most this part of the memory: of 80 GB 8,192 tokens of 50,280 in bfloat16
CPU_LOGITS_BYTES = 2**24  # products are so slow there that the sum costs nothing beside them, and caches are small
MIN_CHUNK = 128  # tokens: a tile of a matrix product on a GPU


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int, dtype: torch.dtype, use_triton: bool = False
) -> Tensor:
    """The loss summed over tokens; arguments as of `reference.linear_cross_entropy`."""
    if not use_triton and len(hidden) <= tokens_in_chunk(len(weight), dtype, hidden.device):
        # A single chunk has the memory of all logits; then autograd's own way is faster.
        return reference.linear_cross_entropy(hidden, weight, labels, ignore_index, dtype)
    hidden_needs, weight_needs = (torch.is_grad_enabled() and tensor.requires_grad for tensor in (hidden, weight))
    total, _, _ = _loss_and_gradients(
        hidden, weight, labels, ignore_index, dtype, hidden_needs, weight_needs, use_triton
    )
    return total


def tokens_in_chunk(vocabulary: int, dtype: torch.dtype, device: torch.device) -> int:
    """A power of two, so that batches are cut evenly."""
    limit = CPU_LOGITS_BYTES
    if device.type == "cuda":
        limit = torch.cuda.get_device_properties(device).total_memory // GPU_SHARE
    tokens = max(limit // (vocabulary * dtype.itemsize), MIN_CHUNK)
    return 1 << (tokens.bit_length() - 1)


@torch.library.custom_op("baby_mamba::linear_cross_entropy", mutates_args=())
def _loss_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    ignore_index: int,
    dtype: torch.dtype,
    hidden_needs: bool,
    weight_needs: bool,
    use_triton: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, its gradient with respect to hidden, and to weight, float32 or wider); one that is not needed is empty."""
    score, columns = _score, weight.shape[0]
    if use_triton:
        from baby_mamba.ops.linear_cross_entropy.triton import padded, score

        columns = padded(columns)
    total, dhidden, dweight = _allocate(hidden, weight, dtype, hidden_needs, weight_needs)
    matrix = weight.to(dtype)
    chunk = min(tokens_in_chunk(len(weight), dtype, hidden.device), len(hidden))
    buffer = matrix.new_empty(chunk, columns)[:, : len(weight)]
    for start in range(0, len(hidden), max(chunk, 1)):
        now = slice(start, start + chunk)
        x = hidden[now].to(dtype)
        logits = torch.mm(x, matrix.t(), out=buffer[: len(x)])
        losses, dlogits = score(logits, labels[now], ignore_index, hidden_needs or weight_needs)
        total += losses.sum()
        if hidden_needs:
            dhidden[now] = dlogits @ matrix
        if weight_needs:
            _add_product(dweight, dlogits.t(), x)
    return total, dhidden, dweight


def _allocate(
    hidden: Tensor, weight: Tensor, dtype: torch.dtype, hidden_needs: bool, weight_needs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(dtype, torch.float32)
    return (
        hidden.new_zeros((), dtype=wide),
        hidden.new_empty(hidden.shape if hidden_needs else (0,)),
        weight.new_zeros(weight.shape if weight_needs else (0,), dtype=wide),
    )


def _score(logits: Tensor, labels: Tensor, ignore_index: int, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """(losses, gradient of their sum with respect to the logits); the latter may overwrite the logits."""
    ignored = labels == ignore_index
    labels = labels.masked_fill(ignored, 0).unsqueeze(-1)
    log_p = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    losses = -log_p.gather(-1, labels).squeeze(-1).masked_fill(ignored, 0)
    if not with_gradient:
        return losses, logits
    gradient = log_p.exp_().scatter_add_(-1, labels, log_p.new_full((), -1).expand(labels.shape))
    return losses, gradient.mul_(~ignored.unsqueeze(-1)).to(logits.dtype)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, rounded once to total's dtype where there is a product that does."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.is_cuda and torch.version.hip is None:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += a @ b


@_loss_and_gradients.register_fake
def _(hidden, weight, labels, ignore_index, dtype, hidden_needs, weight_needs, use_triton):
    return _allocate(hidden, weight, dtype, hidden_needs, weight_needs)


def _save(ctx, inputs, output):
    ctx.dtypes = [tensor.dtype for tensor in inputs[:2]]
    ctx.save_for_backward(*output[1:])
    ctx.set_materialize_grads(False)


def _gradients(ctx, dtotal, *of_gradients):
    if any(gradient is not None for gradient in of_gradients):
        raise BackendUnavailableError(
            "linear_cross_entropy: this backend has no derivatives of its derivatives; use backend='reference' for them"
        )

    def scaled(gradient: Tensor, dtype: torch.dtype) -> Tensor | None:
        if dtotal is None or gradient.numel() == 0:  # nothing depends on the loss, or this was not asked for
            return None
        return (gradient.to(dtotal.dtype) * dtotal).to(dtype)  # else the factor would be rounded to bfloat16 first

    return (*map(scaled, ctx.saved_tensors, ctx.dtypes), *(None,) * 6)


_loss_and_gradients.register_autograd(_gradients, setup_context=_save)
