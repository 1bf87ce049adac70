"""Distances between sets of pictures: FID, ArtFID, and CFSD between a picture and its stylised form."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from ..engine.errors import wrong_input

# From images `[B,3,H,W]` in 0..1 to one vector per picture, `[B,D]`.
Embed = Callable[[Tensor], Tensor]


def gather_features(embed: Embed, batches: Iterable[Tensor]) -> np.ndarray:
    """The vectors `[N,D]` float64 of all pictures of several batches."""
    with torch.no_grad():
        features = [embed(batch).double().cpu().numpy() for batch in batches]
    if not features:
        raise wrong_input("pictures", "none", "two or more", "Give the pictures to measure.")
    return np.concatenate(features)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of vectors `[N,D]` (Heusel et al., arXiv:1706.08500).

    The trace of the root is taken as the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), which is
    symmetric, so that few pictures (singular covariances) need no offset on the diagonal. Covariances are sample
    covariances (N - 1). RegionStyleError for fewer than two pictures on a side, vectors of different length, or NaN.
    """
    for name, part in (("first set", a), ("second set", b)):
        if part.ndim != 2 or len(part) < 2:
            raise wrong_input(name, f"shape {list(part.shape)}", "vectors [N,D] of two or more pictures", "Add some.")
        if not np.isfinite(part).all():
            raise wrong_input(name, "vectors with NaN or infinity", "finite ones", "Look at the pictures.")
    if a.shape[1] != b.shape[1]:
        got = f"{a.shape[1]} and {b.shape[1]} values a picture"
        raise wrong_input("feature vectors", got, "the same length", "Use one network for both sets.")
    sa, sb = _covariance(a), _covariance(b)
    root = _root(sa)
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ sb @ root), 0, None)).sum()
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    return float(max(shift + np.trace(sa) + np.trace(sb) - 2 * cross, 0))


def _covariance(vectors: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.cov(vectors.astype(np.float64), rowvar=False))


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric root of a positive semidefinite matrix; rounding below 0 counts as 0."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def art_fid(lpips: float, fid: float) -> float:
    """ArtFID = (LPIPS + 1)(FID + 1) (Wright and Ommer, arXiv:2207.12280).

    Its authors' program takes LPIPS over AlexNet and FID over an Inception network trained on artworks; what a number
    was taken with stands in its backbone. RegionStyleError for distances that are negative or NaN.
    """
    if not (lpips >= 0 and fid >= 0):
        raise wrong_input("LPIPS and FID", f"{lpips:g} and {fid:g}", "0 or more", "Measure both again.")
    return (lpips + 1) * (fid + 1)
