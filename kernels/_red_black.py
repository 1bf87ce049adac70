"""The finest grid of the Poisson solver: pixels kept by the parity of their row and column.

The five-point operator couples a pixel only with neighbours of the other colour of a chessboard, so that each half of
a Gauss-Seidel sweep is a few whole-array operations, and leaves a residual on one colour only (Trottenberg, Oosterlee,
Schueller: Multigrid, 2001, section 2.1.2 and 4.6). Arrays here are `[4,B,C,h,w]`: pixels at even row and even column,
even and odd, odd and even, odd and odd, each of half the picture's size, rounded up.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EE, EO, OE, OO = range(4)
_BLACK, _RED = (EE, OO), (EO, OE)


class RedBlackGrid:
    """The five-point operator of one mask, its smoother, and the way to the next coarser grid and back."""

    def __init__(self, inside: Tensor) -> None:
        """inside: `[B,1,H,W]`, 0 or 1."""
        self.height, self.width = inside.shape[-2:]
        self.inside = self.split(inside)
        rows, columns = (self._in_frame(n, inside) for n in (self.height, self.width))
        frame = (rows[:, None, :, None] * columns[None, :, None, :]).flatten(0, 1)[:, None, None]
        self.frame = frame
        self.degree = torch.stack([self._neighbours(frame, part) for part in range(4)]) * frame
        self.inverse_degree = self.inside / self.degree.clamp_min(1)
        self._minus_inside = -self.inside

    def split(self, x: Tensor) -> Tensor:
        """`[B,C,H,W]` -> `[4,B,C,h,w]`, zeros where the picture has no such pixel."""
        if self.height % 2 or self.width % 2:
            x = F.pad(x, (0, self.width % 2, 0, self.height % 2))
        return torch.stack([x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)])

    def join(self, parts: Tensor) -> Tensor:
        """The inverse of `split`."""
        h, w = parts.shape[-2:]
        whole = parts.new_empty(*parts.shape[1:3], 2 * h, 2 * w)
        for index, part in enumerate(parts):
            whole[..., index // 2 :: 2, index % 2 :: 2] = part
        return whole[..., : self.height, : self.width]

    def apply(self, u: Tensor) -> Tensor:
        """The operator on u that is 0 outside the mask."""
        recorded = torch.is_grad_enabled() and u.requires_grad  # autograd takes no `out`
        result = None if recorded else torch.empty_like(u)
        parts = []
        for part in range(4):
            total = self._neighbours(u, part, None if result is None else result[part])
            parts.append(total.addcmul_(self.degree[part], u[part], value=-1).mul_(self._minus_inside[part]))
        return torch.stack(parts) if result is None else result

    def descend(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """One sweep from zero, black then red, and what is left of r, on the next grid `[B,C,h+1,w+1]`."""
        u = self.inverse_degree * r
        for part in _RED:
            u[part].addcmul_(self.inverse_degree[part], self._neighbours(u, part))
        # A black pixel was solved when its neighbours were zero: what they now send is what is left.
        left, quarter = (self._neighbours(u, part).mul_(self.inside[part]) for part in _BLACK)
        coarse = F.pad(left, (0, 1, 0, 1))
        quarter.mul_(0.25)
        for rows in (slice(None, -1), slice(1, None)):
            for columns in (slice(None, -1), slice(1, None)):
                coarse[..., rows, columns] += quarter
        return u, coarse

    def ascend(self, u: Tensor, r: Tensor, coarse: Tensor) -> Tensor:
        """u with the coarser grid's correction, and one sweep, red then black: the transpose of `descend`."""
        # Black pixels suffice: the red ones are computed from them next.
        u[EE].addcmul_(self.inside[EE], coarse[..., :-1, :-1])
        rows = coarse[..., :-1, :] + coarse[..., 1:, :]
        u[OO].addcmul_(self.inside[OO], rows[..., :-1] + rows[..., 1:], value=0.25)
        for part in (*_RED, *_BLACK):
            torch.mul(self.inverse_degree[part], self._neighbours(u, part).add_(r[part]), out=u[part])
        return u

    def coarse_stencil(self) -> Tensor:
        """The Galerkin product P^T A P for bilinear P cut off at the mask, as a stencil `[B,9,h+1,w+1]`.

        Summed over the edges of the pixel graph: each is a square of a difference, and a difference is linear in the
        four coarse points around it.
        """
        ee, eo, oe, oo = self.inside[:, :, 0]
        at = self.frame[:, 0, 0]
        right, below = (lambda x: F.pad(x[..., 1:], (0, 1))), (lambda x: F.pad(x[..., 1:, :], (0, 0, 0, 1)))
        beside = [
            _Square(at[EE] * at[EO], ee - eo / 2, -eo / 2),
            _Square(at[EO] * right(at[EE]), eo / 2, eo / 2 - right(ee)),
        ]
        under = [
            _Square(at[EE] * at[OE], ee - oe / 2, -oe / 2),
            _Square(at[OE] * below(at[EE]), oe / 2, oe / 2 - below(ee)),
        ]
        across = [
            _Square(at[OE] * at[OO], oe / 2 - oo / 4, -oo / 4),
            _Square(at[OO] * right(at[OE]), oo / 4, oo / 4 - right(oe) / 2),
        ]
        down = [
            _Square(at[EO] * at[OO], eo / 2 - oo / 4, -oo / 4),
            _Square(at[OO] * below(at[EO]), oo / 4, oo / 4 - below(eo) / 2),
        ]
        return _assembled(*(_total(squares) for squares in (beside, under, across, down)))

    def _in_frame(self, n: int, like: Tensor) -> Tensor:
        """1 where a row of each parity is in the frame, `[2,ceil(n/2)]`."""
        return F.pad(like.new_ones(n), (0, n % 2)).view(-1, 2).T

    def _neighbours(self, u: Tensor, part: int, out: Tensor | None = None) -> Tensor:
        """Sum of the four neighbours of the pixels of one part, as a new array, or in `out`."""
        across, along = u[part ^ 1], u[part ^ 2]
        total = torch.add(across, along, out=out)
        if part % 2 == 0:
            total[..., 1:] += across[..., :-1]
        else:
            total[..., :-1] += across[..., 1:]
        if part < 2:
            total[..., 1:, :] += along[..., :-1, :]
        else:
            total[..., :-1, :] += along[..., 1:, :]
        return total


class _Square:
    """An edge per cell, (a first + b second)^2 where it exists: its three products."""

    def __init__(self, exists: Tensor, a: Tensor, b: Tensor) -> None:
        a, b = a * exists, b * exists
        self.products = a * a, a * b, b * b


def _total(squares: list[_Square]) -> tuple[Tensor, ...]:
    return tuple(sum(each) for each in zip(*(square.products for square in squares), strict=True))  # type: ignore[misc]


def _assembled(
    beside: tuple[Tensor, ...], under: tuple[Tensor, ...], across: tuple[Tensor, ...], down: tuple[Tensor, ...]
) -> Tensor:
    """The stencil from each cell's products.

    A cell `[B,h,w]` has the corners 00, 01, 10, 11. beside: of edges between 00 and 01; under: 00 and 10; across: of
    edges between the sums 00 + 10 and 01 + 11; down: 00 + 01 and 10 + 11.
    """
    b, h, w = beside[0].shape
    stencil = beside[0].new_zeros(b, 3, 3, h + 1, w + 1)

    def add(value: Tensor, y: int, x: int, other_y: int, other_x: int) -> None:
        stencil[:, other_y - y + 1, other_x - x + 1, y : y + h, x : x + w] += value

    def pair(value: Tensor, first: tuple[int, int], second: tuple[int, int]) -> None:
        add(value, *first, *second)
        add(value, *second, *first)

    (a2, ac, c2), (d2, df, f2) = across, down
    add(beside[0] + under[0] + a2 + d2, 0, 0, 0, 0)
    add(beside[2] + c2 + d2, 0, 1, 0, 1)
    add(under[2] + a2 + f2, 1, 0, 1, 0)
    add(c2 + f2, 1, 1, 1, 1)
    pair(beside[1] + ac + d2, (0, 0), (0, 1))
    pair(under[1] + a2 + df, (0, 0), (1, 0))
    pair(c2 + df, (0, 1), (1, 1))
    pair(ac + f2, (1, 0), (1, 1))
    pair(ac + df, (0, 0), (1, 1))
    pair(ac + df, (0, 1), (1, 0))
    return stencil.flatten(1, 2)
