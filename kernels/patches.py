"""Random perspective patches (LEAST, arXiv:2405.16330; CLIPstyler's augmentation)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import (
    check_count,
    check_float,
    check_number,
    check_shapes,
    compute_dtype,
    full_precision,
    promote,
    require,
)
from ._patch_windows import window_patches


def sample_patches_reference(
    image: Tensor,
    boxes: Tensor,
    count: int,
    crop: int,
    size: int,
    *,
    distortion: float = 0.5,
    fill: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`sample_patches` patch by patch: cut out, solve for the perspective as torchvision does, read each pixel."""
    dtype, (image,) = image.dtype, promote(image)
    start, side = _draw_windows(image, boxes, count, crop, generator)
    corners = _draw_corners(side, distortion, generator).to(image.dtype)
    result = image.new_empty(len(image), count, image.shape[1], size, size)
    for sample in range(len(image)):
        for patch in range(count):
            (x, y), n = start[sample, patch].long().tolist(), int(side[sample, patch])
            window = image[sample, :, y : y + n, x : x + n]
            result[sample, patch] = _warp_reference(window, corners[sample, patch], size, fill)
    return result.to(dtype)


def _warp_reference(window: Tensor, corners: Tensor, size: int, fill: float) -> Tensor:
    """One square window `[C,n,n]` seen through the perspective that moves its corner pixels to `corners`."""
    n = window.shape[-1]
    plain = window.new_tensor([[0, 0], [n - 1, 0], [n - 1, n - 1], [0, n - 1]])
    rows, values = [], []
    for (ex, ey), (px, py) in zip(corners.tolist(), plain.tolist(), strict=True):
        rows += [[ex, ey, 1, 0, 0, 0, -px * ex, -px * ey], [0, 0, 0, ex, ey, 1, -py * ex, -py * ey]]
        values += [px, py]
    if n == 1:
        solution = [1.0, 0, 0, 0, 1, 0, 0, 0]
    else:
        solution = torch.linalg.solve(torch.tensor(rows).double(), torch.tensor(values).double()).tolist()
    a, b, c, d, e, f, g, h = solution
    result = window.new_empty(window.shape[0], size, size)
    for row in range(size):
        for column in range(size):
            u, v = (min(max((i + 0.5) * n / size, 0.5), n - 0.5) for i in (column, row))
            depth = g * u + h * v + 1
            x, y = (a * u + b * v + c) / depth - 0.5, (d * u + e * v + f) / depth - 0.5
            result[:, row, column] = _read(window, x, y, fill)
    return result


def _read(window: Tensor, x: float, y: float, fill: float) -> Tensor:
    """Bilinear value at (x, y) in pixel indices; within a pixel's width of the edge it fades into `fill`."""
    n = window.shape[-1]
    cover = max(0.0, min(1.0, x + 1, n - x)) * max(0.0, min(1.0, y + 1, n - y))
    x, y = min(max(x, 0.0), n - 1.0), min(max(y, 0.0), n - 1.0)
    x0, y0 = int(x), int(y)
    x1, y1 = min(x0 + 1, n - 1), min(y0 + 1, n - 1)
    top = window[:, y0, x0] * (1 - x + x0) + window[:, y0, x1] * (x - x0)
    bottom = window[:, y1, x0] * (1 - x + x0) + window[:, y1, x1] * (x - x0)
    return cover * (top * (1 - y + y0) + bottom * (y - y0)) + (1 - cover) * fill


@full_precision
def sample_patches(
    image: Tensor,
    boxes: Tensor,
    count: int,
    crop: int,
    size: int,
    *,
    distortion: float = 0.5,
    fill: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random patches of each image's box, each seen in a random perspective and resized.

    image `[B,C,H,W]`; boxes `[B,4]` as x0 y0 x1 y1 in pixels (x1, y1 exclusive; cut at the frame). Each patch is a
    square window of whole pixels, `crop` wide or as wide as the box's shorter side if that is less, anywhere inside
    the box. Its corners move inwards by up to `distortion` (0..1) times half its side, as torchvision's
    RandomPerspective draws and defines it; what then lies outside the window reads `fill`. Resized to `size` with
    bilinear weights (not antialiased, edge pixels repeated), in one sampling of the image. Returns
    `[B,count,C,size,size]` in the image's dtype, differentiable in image. The same `generator` state gives the same
    patches.

    Raises ValueError on shapes that disagree, numbers out of range, or a box without a pixel in the frame.
    """
    check_shapes(image=(image, "B C H W"), boxes=(boxes, "B 4"))
    check_float(image=image)
    check_count(count=count, crop=crop, size=size)
    check_number(distortion=distortion, fill=fill)
    require(0 <= distortion <= 1, f"distortion must lie in 0..1, got {distortion}")
    random = generator is None or isinstance(generator, torch.Generator)
    require(random, f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    start, side = _draw_windows(image, boxes, count, crop, generator)
    corners = _draw_corners(side, distortion, generator)
    pixels, start, side, corners = (part.to(compute_dtype(image)) for part in (image, start, side, corners))
    if image.device.type == "cpu":
        return window_patches(pixels, start, side, _inverse_homography(corners, side), size, fill).to(image.dtype)
    return _sample(pixels, start, side, _perspective_grid(corners, side, size), fill).to(image.dtype)


def _draw_windows(
    image: Tensor, boxes: Tensor, count: int, crop: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Top left corners `[B,count,2]` (x, y) and sides `[B,count]` of the windows, in whole pixels."""
    require(not (boxes.is_complex() or boxes.dtype == torch.bool), f"boxes must be numbers, got {boxes.dtype}")
    first, last = boxes.double().split(2, 1)
    frame = first.new_tensor([image.shape[3], image.shape[2]])
    low, high = first.clamp_min(0).ceil(), torch.minimum(last, frame).floor()
    # A box thinner than a pixel stands for the pixel it lies in.
    thin = high <= low
    low = torch.where(thin, first.clamp_min(0).floor(), low)
    high = torch.where(thin, low + 1, high)
    touches = (last > first) & (high <= frame) & (last > 0)
    if not bool(touches.all()):
        sample = int((~touches.all(1)).nonzero()[0])
        raise ValueError(
            f"boxes {list(boxes.shape)}: box {boxes[sample].tolist()} of sample {sample} holds no pixel of image "
            f"{list(image.shape)}; boxes are x0 y0 x1 y1 with x0 < x1, y0 < y1"
        )
    extent = high - low
    side = extent.amin(1, keepdim=True).clamp_max(crop)
    draw = _uniform((len(boxes), count, 2), low.device, generator)
    room = (extent - side)[:, None]
    start = low[:, None] + torch.minimum((draw * (room + 1)).floor(), room)
    return start.to(image.device), side.expand(-1, count).to(image.device)


def _draw_corners(side: Tensor, distortion: float, generator: torch.Generator | None) -> Tensor:
    """Where the corner pixels of each window go, `[B,count,4,2]`: clockwise from the top left, (x, y) in pixels.

    As torchvision's RandomPerspective: each coordinate moves inwards by a whole number of pixels in
    0..int(distortion * (side // 2)). A distortion of 1 stops one pixel before the corners would meet.
    """
    reach = torch.minimum((distortion * (side // 2)).floor(), ((side - 2) / 2).floor().clamp_min(0))
    inset = (_uniform((*side.shape, 4, 2), side.device, generator) * (reach[..., None, None] + 1)).floor()
    inset = torch.minimum(inset, reach[..., None, None])
    far = side.new_tensor([[0, 0], [1, 0], [1, 1], [0, 1]])
    return torch.where(far > 0, (side - 1)[..., None, None] - inset, inset)


def _uniform(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> Tensor:
    source = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=source, dtype=torch.float64).to(device)


def _perspective_grid(corners: Tensor, side: Tensor, size: int) -> Tensor:
    """Pixel indices (x, y) inside each window that the output pixels read, `[B,count,size,size,2]`."""
    pixel = torch.arange(size, dtype=corners.dtype, device=corners.device) + 0.5
    v, u = torch.meshgrid(pixel, pixel, indexing="ij")
    n = side[..., None, None, None]
    # Resizing repeats the edge pixels of the seen picture: half a pixel from its border is where they end.
    seen = torch.minimum((torch.stack([u, v], -1) * n / size).clamp_min(0.5), n - 0.5)
    mapped = torch.einsum("bnij,bnhwj->bnhwi", _inverse_homography(corners, side), F.pad(seen, [0, 1], value=1))
    # torchvision gives the corners as pixel indices but maps pixel centres (index + 0.5); so do we.
    return mapped[..., :2] / mapped[..., 2:] - 0.5


def _inverse_homography(corners: Tensor, side: Tensor) -> Tensor:
    """The 3 x 3 matrices `[B,count,3,3]` that take `corners` back to the window's corner pixels.

    Heckbert 1989, 2.2.3: the map from the unit square to a quadrangle in closed form, inverted by its adjugate,
    which needs no division and keeps its digits in float32 where the usual 8 x 8 system loses them.
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (corner.unbind(-1) for corner in corners.unbind(-2))
    dx1, dx2, sx = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, sy = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    g, h, k = sx * dy2 - dx2 * sy, dx1 * sy - sx * dy1, dx1 * dy2 - dx2 * dy1
    a, b, c = (x1 - x0) * k + g * x1, (x3 - x0) * k + h * x3, x0 * k
    d, e, f = (y1 - y0) * k + g * y1, (y3 - y0) * k + h * y3, y0 * k
    across = torch.stack([e * k - f * h, c * h - b * k, b * f - c * e], -1)
    down = torch.stack([f * g - d * k, a * k - c * g, c * d - a * f], -1)
    depth = torch.stack([d * h - e * g, b * g - a * h, a * e - b * d], -1)
    last = (side - 1)[..., None]
    inverse = torch.stack([across * last, down * last, depth], -2)
    # A window of one pixel has its four corners in one point: nothing to distort.
    return torch.where((side > 1)[..., None, None], inverse, torch.eye(3, dtype=side.dtype, device=side.device))


def _sample(image: Tensor, start: Tensor, side: Tensor, grid: Tensor, fill: float) -> Tensor:
    """Read every window of the image at its grid; outside the window, `fill`."""
    n = side[..., None, None, None]
    # As if padded with one ring of `fill`: torchvision's edge, without reading the image beyond the window.
    cover = torch.minimum(grid + 1, n - grid).clamp(0, 1).prod(-1).nan_to_num(0.0)
    inner = torch.minimum(grid.nan_to_num(0.0).clamp_min(0), n - 1) + start[..., None, None, :]
    frame = inner.new_tensor([image.shape[3], image.shape[2]])
    flat = ((2 * inner + 1) / frame - 1).flatten(1, 2)
    values = F.grid_sample(image, flat, mode="bilinear", padding_mode="border", align_corners=False)
    values = values.unflatten(2, grid.shape[1:3]).transpose(1, 2)
    return values * cover[:, :, None] + fill * (1 - cover[:, :, None])
