"""Image files to arrays and back, and the kernels that have names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from convcore.normalise import did_you_mean

#: Correlation kernels: a positive answer of "…-x" means that the image gets brighter to the right, of "…-y" downwards.
KERNELS: dict[str, NDArray[np.float32]] = {
    "box": np.full((3, 3), 1 / 9, np.float32),
    "edge": np.array([[1, -1]], np.float32),
    "emboss": np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32),
    "gaussian": np.array(np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256, np.float32),
    "identity": np.ones((1, 1), np.float32),
    "laplacian": np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32),
    "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32),
}
for _name, _smooth in (("prewitt", (1, 1, 1)), ("scharr", (3, 10, 3)), ("sobel", (1, 2, 1))):
    KERNELS[f"{_name}-x"] = np.array(np.outer(_smooth, (-1, 0, 1)), np.float32)
    KERNELS[f"{_name}-y"] = KERNELS[f"{_name}-x"].T

#: How real-valued results become pixels of the input's depth.
PIXELS = ("clip", "absolute", "offset", "stretch")


def parse_kernel(text: str) -> NDArray[np.float32]:
    """Return the kernel that a name, the path of a .npy file, or rows such as "1,-1" or "1,2;3,4" stand for.

    Raises
    ------
    ValueError
        If the text is none of these, or is not a rectangle of numbers.
    """
    if text in KERNELS:
        return KERNELS[text]
    if text.endswith(".npy"):
        kernel = np.load(text, allow_pickle=False)
        if kernel.ndim != 2 or kernel.dtype.kind not in "biuf" or not np.isfinite(kernel).all():
            raise ValueError(f"{text} must hold a 2-D array of finite numbers, got {kernel.ndim}-D {kernel.dtype}")
        return np.asarray(kernel, np.float32)
    rows = [row.split(",") for row in text.split(";")]
    try:
        return np.array([[float(number) for number in row] for row in rows], np.float32)
    except ValueError:
        raise ValueError(
            f"--kernel must be a name, a .npy file or rows such as '1,-1' or '1,2;3,4', got {text!r}"
            f"{did_you_mean(text, KERNELS)}; names: {', '.join(KERNELS)}"
        ) from None


def read_image(path: Path) -> NDArray[Any]:
    """Return the pixels of an image file as (H, W) or (H, W, channels), uint8 or uint16."""
    with path.open("rb") as file:
        if file.read(8) == b"\x89PNG\r\n\x1a\n" and file.read(17)[-1:] == b"\x10":
            return _read_png_of_16_bits(file)
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            palette = image.mode in ("P", "PA", "CMYK", "YCbCr")
            pixels = np.asarray(image.convert("RGB") if palette else image)
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that can be read") from None
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path} must have 8 or 16 bits a channel, got {pixels.dtype}")
    return pixels


def _read_png_of_16_bits(file: BinaryIO) -> NDArray[Any]:
    """Read what Pillow would cut down to 8 bits."""
    import png

    file.seek(0)
    width, height, rows, info = png.Reader(file).asDirect()
    pixels = np.array([np.asarray(row) for row in rows], np.uint16).reshape(height, width, info["planes"])
    return pixels[:, :, 0] if info["planes"] == 1 else pixels


def write_image(path: Path, pixels: NDArray[Any]) -> None:
    """Write (H, W) or (H, W, channels) pixels, uint8 or uint16, as a PNG."""
    import png

    if path.suffix.lower() != ".png":
        raise ValueError(f"the output must be a .png file, got {path}")
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    rows = pixels.reshape(pixels.shape[0], -1)
    png.from_array(rows, f"{mode};{pixels.dtype.itemsize * 8}").save(str(path))


def to_pixels(values: NDArray[np.float32], dtype: np.dtype[Any], how: str) -> tuple[NDArray[Any], float]:
    """Map real values to pixels of an integer dtype.

    Parameters
    ----------
    values : ndarray
        Results of a correlation, in units of the input's pixels.
    dtype : numpy.dtype
        uint8 or uint16.
    how : str
        "clip": round, values outside the range are cut to its ends.  "absolute": the magnitude,
        then clip.  "offset": half of the range is added, so that zero is middle grey, then clip.
        "stretch": the smallest value becomes 0, the largest the top of the range.

    Returns
    -------
    ndarray
        The pixels, of the values' shape.
    float
        The share of values that were cut, 0 to 1.
    """
    top = np.iinfo(dtype).max
    if how == "absolute":
        values = np.abs(values)
    elif how == "offset":
        values = values + (top + 1) / 2
    elif how == "stretch":
        low, high = values.min(), values.max()
        values = (values - low) * (top / (high - low) if high > low else 0)
    rounded = np.rint(values)
    clipped = np.clip(rounded, 0, top)
    return clipped.astype(dtype), float(np.mean(clipped != rounded))
