"""Published figures, printed beside what is measured. Only what is known; a figure that is not known is left out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """columns: the metrics; rows: method -> its figures, None where the paper gives none; remark: what to know."""

    source: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]
    remark: str = ""


_REGIONAL = ("RSM", "LPIPS_bg", "MSE_bg", "Q1", "Q2", "Q3", "Q4")
_OPEN = "CLIP variant, LPIPS network, pixel range, margin, objects and styles of the paper are not known."

COCO = Published(
    "RegionRoute, arXiv:2602.19254, COCO",
    _REGIONAL,
    {
        "FLUX.1-Kontext": (0.6126, 0.4546, 0.1699, 0.63, 0.44, 0.08, 0.06),
        "Qwen-Image-Edit": (0.6235, 0.7530, 0.4398, 0.98, 0.86, 0.01, 0.00),
        "Style-Editor": (0.6071, 0.2235, 0.0093, None, None, None, None),
        "ICEdit": (0.6086, 0.3512, 0.1568, None, None, None, None),
        "AnyEdit": (0.6085, 0.6895, 0.2633, 0.50, 0.41, 0.57, 0.47),
        "InstructPix2Pix": (0.5978, 0.1867, 0.0516, None, None, None, None),
        "SD2-Inpainting (given the mask)": (0.6028, 0.0859, 0.0039, None, None, None, None),
        "RegionRoute": (0.6128, 0.2103, 0.0729, 0.73, 0.07, 0.12, 0.00),
        "RegionRoute, no Cover": (0.6120, 0.2174, 0.0730, None, None, None, None),
        "RegionRoute, no Focus": (0.6127, 0.2132, 0.0740, None, None, None, None),
        "RegionRoute, single-stream blocks": (0.6168, 0.4225, 0.1409, None, None, None, None),
        "RegionRoute, double-stream blocks": (0.6190, 0.5203, 0.2284, None, None, None, None),
        "RegionRoute, rank 8": (0.6137, 0.2007, 0.0752, None, None, None, None),
        "RegionRoute, rank 16": (0.6126, 0.1876, 0.0671, None, None, None, None),
    },
    _OPEN,
)
VOC = Published("RegionRoute, arXiv:2602.19254, Pascal VOC", ("Q1",), {"RegionRoute": (0.74,)}, _OPEN)
BIG = Published("RegionRoute, arXiv:2602.19254, BIG", ("Q1",), {"RegionRoute": (0.76,)}, _OPEN)
LEAST = Published(
    "LEAST, arXiv:2405.16330, 25 pictures with 10 prompts each",
    ("CLIP score",),
    {
        "InstructPix2Pix": (21.58,),
        "InstructDiffusion": (21.58,),
        "CLIPstyler": (21.64,),
        "ZeCon (256 px)": (21.54,),
        "LEAST": (21.47,),
    },
    "The paper's users preferred LEAST to CLIPstyler in 97.89 % of comparisons: this score does not see locality.",
)
_ART_FID = (
    "The paper does not name the networks of LPIPS and FID: ArtFID's own program takes AlexNet, and an Inception "
    "network trained on artworks, which is not measured here."
)
SMS = Published(
    "SMS, arXiv:2503.07601, single image",
    ("LPIPS", "CFSD", "FID", "ArtFID", "PickScore", "HPSv2"),
    {
        "SMS, Ghibli": (0.326, 0.102, 13.089, 18.686, 1.487, 0.259),
        "SMS, oil painting": (0.431, 0.128, 17.905, 27.055, 1.842, 0.260),
        "SMS, Ghibli, neither spectrum nor relevance": (0.703, None, None, 26.403, None, None),
        "SMS, Ghibli, spectrum only": (0.505, None, None, 24.132, None, None),
        "SMS, Ghibli, relevance only": (0.536, None, None, 27.514, None, None),
        "SMS, Ghibli, uniform timesteps": (0.389, None, None, 32.936, None, None),
        "SMS, Ghibli, linear timesteps": (0.408, None, None, 23.524, None, None),
    },
    f"{_ART_FID} Its PickScore is not on the usual scale, which is about 20: how it was taken is not known.",
)
LHQ = Published(
    "SMS, arXiv:2503.07601, feed-forward, LHQ",
    ("LPIPS", "FID", "ArtFID"),
    {"SMS": (0.268, 12.472, 17.079)},
    _ART_FID,
)
_HARMONIZATION = ("PSNR", "MSE", "fMSE", "SSIM")
IHARMONY4 = Published(
    "R2R, arXiv:2508.09746, iHarmony4, 256 x 256, truth's background (the published log)",
    _HARMONIZATION,
    {
        "R2R, all": (41.935, 12.512, 144.386, 0.9954),
        "R2R, HCOCO": (42.623, 7.927, 146.808, 0.9968),
        "R2R, HAdobe5k": (42.219, 15.702, 102.144, 0.9945),
        "R2R, HFlickr": (38.040, 26.283, 185.384, 0.9923),
        "R2R, Hday2night": (39.423, 22.644, 497.185, 0.9857),
        "R2R, all, foreground 0-5 %": (45.446, 3.513, 167.074, None),
        "R2R, all, foreground 5-15 %": (40.405, 10.605, 121.898, None),
        "R2R, all, foreground 15-100 %": (35.459, 36.140, 117.728, None),
    },
)
REALHM = Published(
    "R2R, arXiv:2508.09746, RealHM",
    _HARMONIZATION,
    {},
    "The paper reports DeQA-Score here; its figures are not known, and that score is not measured.",
)
