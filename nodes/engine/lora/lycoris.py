"""LoHa and LoKr layers as LoRA layers of the same effect, exactly, up to rounding in float32.

LoHa (Hyeon-Woo et al., FedPara, ICLR 2022; LyCORIS) is the product, element by element, of two low-rank matrices: of
rank r1 r2 at most, since the columns of its factors are the products of theirs. LoKr (Edalati et al., KronA,
arXiv:2212.10650; LyCORIS) is a Kronecker product; where its second factor is itself low-rank, so is the whole. Where
the rank would not be smaller than the layer, the whole matrix stands as `down` before the identity.

The layer's scale is alpha / r as in LyCORIS, r being the rank of the (last) decomposed factor; 1 where none is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import RegionStyleError, wrong_input

LARGEST = 2**30  # numbers in all updates that are made (4 GB)
_FACTORS = (
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
)  # fmt: skip
_TUCKER = "i j k l, j r, i p -> p r k l"
Factors = Mapping[str, Tensor]


def as_lora(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors by key with every LoHa or LoKr layer replaced by a LoRA layer; the very same where there is none.

    RegionStyleError naming the layer for factors that are missing or do not fit, and for updates that would take more
    than `LARGEST` numbers.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        layer, _, role = key.rpartition(".")
        if role in _FACTORS:
            layers.setdefault(layer, {})[role] = tensor
    if not layers:
        return tensors
    _check_size(layers)
    made = {key: tensor for key, tensor in tensors.items() if key.rpartition(".")[2] not in _FACTORS}
    for layer, factors in layers.items():
        down, up, scale = _update(layer, factors, made.get(f"{layer}.alpha"))
        made[f"{layer}.lora_down.weight"], made[f"{layer}.lora_up.weight"] = down, up
        made[f"{layer}.alpha"] = torch.tensor(scale * len(down))
    return made


def _update(layer: str, factors: Factors, alpha: Tensor | None) -> tuple[Tensor, Tensor, float]:
    """down, up and scale of one layer."""
    if alpha is not None and (alpha.numel() != 1 or not bool(alpha.isfinite().all())):
        raise wrong_input(f"LoRA file, alpha of {layer}", alpha.tolist(), "one finite number", "Use another file.")
    if not all(tensor.is_floating_point() for tensor in factors.values()):
        raise _misfit(layer, factors)
    down, up, rank = _multiplied(layer, {role: tensor.float() for role, tensor in factors.items()})
    return down, up, 1.0 if alpha is None or rank is None else float(alpha) / rank


def _multiplied(layer: str, factors: Factors) -> tuple[Tensor, Tensor, int | None]:
    """down, up, and the rank that alpha is divided by."""
    try:
        if any(tensor.ndim not in (2, 4) or not tensor.numel() for tensor in factors.values()):
            raise _misfit(layer, factors)
        return _loha(factors) if "hada_w1_a" in factors else _lokr(factors)
    except (RuntimeError, KeyError, IndexError) as error:
        raise _misfit(layer, factors) from error


def _loha(f: Factors) -> tuple[Tensor, Tensor, int]:
    w1_a, w1_b, w2_a, w2_b = (f[role] for role in _FACTORS[:4])
    rank = len(w1_b)
    if "hada_t1" in f:
        delta = torch.einsum(_TUCKER, f["hada_t1"], w1_b, w1_a) * torch.einsum(_TUCKER, f["hada_t2"], w2_b, w2_a)
        return *_dense(delta), rank
    if rank * len(w2_b) >= min(len(w1_a), w1_b.shape[1]):
        return *_dense((w1_a @ w1_b) * (w2_a @ w2_b)), rank
    # (sum_r a_r b_r) * (sum_s c_s d_s) = sum_rs (a_r c_s) (b_r d_s)
    up = (w1_a[:, :, None] * w2_a[:, None, :]).flatten(1)
    down = (w1_b[:, None] * w2_b[None]).flatten(0, 1)
    return down, up, rank


def _lokr(f: Factors) -> tuple[Tensor, Tensor, int | None]:
    rank = None
    if "lokr_w1" in f:
        w1 = f["lokr_w1"]
    else:
        w1, rank = f["lokr_w1_a"] @ f["lokr_w1_b"], len(f["lokr_w1_b"])
    if "lokr_w2" in f:
        return *_dense(_kron(w1, f["lokr_w2"])), rank
    w2_a, w2_b = f["lokr_w2_a"], f["lokr_w2_b"]
    if "lokr_t2" in f:
        return *_dense(_kron(w1, torch.einsum(_TUCKER, f["lokr_t2"], w2_b, w2_a))), len(w2_b)
    if min(w1.shape) * len(w2_b) >= min(len(w1) * len(w2_a), w1.shape[1] * w2_b.shape[1]):
        return *_dense(torch.kron(w1, w2_a @ w2_b)), len(w2_b)
    # kron(A, BC) = kron(A, B) kron(I, C) = kron(I, B) kron(A, C)
    one = torch.eye(min(w1.shape), device=w1.device)
    wide = w1.shape[1] == len(one)
    up, down = (torch.kron(w1, w2_a), torch.kron(one, w2_b)) if wide else (torch.kron(one, w2_a), torch.kron(w1, w2_b))
    return down, up, len(w2_b)


def _kron(a: Tensor, b: Tensor) -> Tensor:
    return torch.kron(a[..., None, None] if b.ndim == 4 else a, b)


def _dense(delta: Tensor) -> tuple[Tensor, Tensor]:
    """A whole matrix, or the kernel of a convolution, as down and up."""
    if delta.ndim == 2 and delta.shape[1] < len(delta):
        return torch.eye(delta.shape[1], device=delta.device), delta
    return delta, torch.eye(len(delta), device=delta.device)


def _check_size(layers: Mapping[str, Factors]) -> None:
    """Before anything is made: what the factors multiply to, by their shapes alone."""
    total = 0
    for layer, factors in layers.items():
        shapes = {role: torch.empty(tensor.shape, device="meta") for role, tensor in factors.items()}
        down, up, _ = _multiplied(layer, shapes)
        total += down.numel() + up.numel()
    if total > LARGEST:
        got = f"updates that take {total * 4 / 2**30:.1f} GB once they are multiplied out"
        remedy = "Extract a LoRA from it with the tools of its trainer."
        raise wrong_input("LoRA file", got, f"at most {LARGEST * 4 // 2**30} GB", remedy)


def _misfit(layer: str, factors: Factors) -> RegionStyleError:
    got = ", ".join(f"{role} {list(tensor.shape)}" for role, tensor in factors.items())
    accepts = "factors of one LoHa or LoKr layer that fit each other"
    return wrong_input(f"LoRA file, {layer}", got, accepts, "Use another file; nothing was loaded.")
