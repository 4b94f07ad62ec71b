"""A kernel learned from images."""

import re

import numpy as np
import pytest
import skimage.data
from scipy.signal import correlate2d

import convcore
from convcore.cli import images, main
from convcore.cli.learn import draw
from convcore.fitting import fit_kernel

EDGE = np.array([[1.0, -1.0]])
BLUR = np.outer([1, 3, 5, 3, 1], [1, 4, 6, 2, 1]) / 13 / 14


@pytest.fixture(params=["numpy", "cpu", "opencl"])
def backend(request):
    return request.param


def band():
    image = np.ones((6, 8))
    image[:, 2:6] = 0
    return image


def test_the_lesson_in_ten_steps(backend):
    wanted = correlate2d(band(), EDGE, "valid")
    for seed in range(8):
        fit = fit_kernel(band(), wanted, (1, 2), lr=0.03, steps=10, seed=seed, backend=backend)
        np.testing.assert_allclose(fit.kernel, EDGE, atol=0.05)
        assert fit.losses == sorted(fit.losses, reverse=True)
        assert fit.losses[-1] / wanted.size < 0.01


def test_the_largest_stable_rate_is_where_it_says(backend):
    wanted = correlate2d(band(), EDGE, "valid")
    fit = fit_kernel(band(), wanted, (1, 2), lr=0.03, backend=backend)
    np.testing.assert_allclose(fit.eigenvalues, [60, 12])
    assert fit.largest_lr == pytest.approx(1 / 30, rel=1e-12)
    assert fit_kernel(band(), wanted, (1, 2), lr=0.0333, steps=400).losses[-1] < 0.01
    with pytest.raises(
        ValueError, match=r"^fit_kernel: `lr` must be above 0 and below 0\.0333333: from there on each "
    ):
        fit_kernel(band(), wanted, (1, 2), lr=0.0334)


def test_beyond_the_largest_stable_rate_plain_steps_diverge():
    """What fit_kernel refuses does happen, step by step through the layer."""
    losses = {}
    for rate in (0.033, 0.034):
        layer = convcore.Conv2D(1, (1, 2), use_bias=False, in_channels=1)
        layer.initialize(seed=0)
        x = band()[None, None].astype(np.float32)
        wanted = convcore.corr2d(x, EDGE.astype(np.float32))
        for _ in range(200):
            error = layer(x) - wanted
            layer.zero_grad()
            layer.backward(2 * error)
            layer.weight.data()[:] -= rate * layer.weight.grad()
        losses[rate] = float((error**2).sum())
    assert losses[0.033] < 0.1
    assert losses[0.034] > 10


def test_a_blur_of_a_photograph_is_found(backend):
    photograph = skimage.data.camera()[::2, ::2] / 255
    after = correlate2d(photograph, BLUR, "same", "symm")
    fit = fit_kernel(photograph, after, 5, backend=backend, steps=1500)
    np.testing.assert_allclose(fit.kernel, BLUR, atol=1e-6)
    assert fit.identifiable
    assert fit.rank == 25


def test_several_images_and_even_kernels():
    rng = np.random.default_rng(3)
    x, k = rng.normal(size=(3, 20, 17)), rng.normal(size=(2, 4))
    valid = np.stack([correlate2d(image, k, "valid") for image in x])
    np.testing.assert_allclose(fit_kernel(x, valid, (2, 4)).kernel, k, atol=1e-9)
    same = convcore.corr2d(x, k, padding="same", boundary="edge")
    np.testing.assert_allclose(fit_kernel(list(x), list(same), (2, 4)).kernel, k, atol=1e-9)


def test_images_that_do_not_determine_the_kernel():
    image = np.tile(np.arange(9.0), (7, 1))  # every line is the same
    fit = fit_kernel(image, correlate2d(image, BLUR, "valid"), 5)
    assert not fit.identifiable
    assert fit.rank == 2
    assert "the images determine only 2 of 25 directions" in str(fit)
    np.testing.assert_allclose(correlate2d(image, fit.kernel, "valid"), correlate2d(image, BLUR, "valid"), atol=1e-6)


def test_losses_are_those_of_the_images():
    rng = np.random.default_rng(4)
    x, y, seen = rng.normal(size=(9, 8)), rng.normal(size=(7, 7)), []
    fit = fit_kernel(x, y, (3, 2), steps=5, callback=lambda *told: seen.append(told))
    assert [step for step, _, _ in seen] == [0, 1, 2, 3, 4]
    for step, loss, kernel in [*seen, (5, fit.losses[-1], fit.kernel)]:
        assert loss == fit.losses[step]
        assert loss == pytest.approx(((correlate2d(x, kernel, "valid") - y) ** 2).sum(), rel=1e-12)


def test_progress_shows_a_bar(capsys):
    fit_kernel(band(), band()[:, 1:], (1, 2), steps=3, progress=True)
    assert "learning" not in capsys.readouterr().err  # gone when it is done


BAD = {
    "sizes": (
        lambda: fit_kernel([np.ones((4, 5)), np.ones((5, 4))], np.ones((2, 4, 5)), 3),
        "fit_kernel: the images of `x` must be of one size, got (4, 5) and (5, 4)",
    ),
    "after": (
        lambda: fit_kernel(np.ones((6, 6)), np.ones((5, 6)), 3),
        "fit_kernel: `y` must be of size (4, 4), or (6, 6) like `x`, for a kernel (3, 3), got (5, 6)",
    ),
    "number": (
        lambda: fit_kernel(np.ones((2, 6, 6)), np.ones((3, 6, 6)), 3),
        "fit_kernel: there must be as many `y` as `x`, got 3 for 2",
    ),
    "kernel": (
        lambda: fit_kernel(np.ones((4, 9)), np.ones((4, 9)), 5),
        "fit_kernel: the kernel must fit into the images, got kernel (5, 5), images (4, 9)",
    ),
    "nan": (
        lambda: fit_kernel(np.full((4, 5), np.nan), np.ones((4, 5)), 3),
        "fit_kernel: `x` must be finite, got 20 NaN or infinite of 20 pixels",
    ),
    "black": (
        lambda: fit_kernel(np.zeros((4, 5)), np.ones((4, 5)), 3),
        "fit_kernel: `x` must not be all zero, or no kernel leaves a trace in `y`",
    ),
    "word": (
        lambda: fit_kernel(band(), band(), 3, lr="best"),
        "fit_kernel: `lr` must be one of auto, got 'best'",
    ),
    "axes": (
        lambda: fit_kernel(np.ones(4), np.ones(4), 1),
        "fit_kernel: `x` must be an image (H, W) or images (N, H, W), got shape (4,)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


# ---------------------------------------------------------------- the command


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Write a photograph and its blur, and go there."""
    monkeypatch.chdir(tmp_path)
    before = skimage.data.camera()
    after = np.rint(correlate2d(before.astype(float), BLUR, "same", "symm")).astype(np.uint8)
    images.write_image(tmp_path / "before.png", before)
    images.write_image(tmp_path / "after.png", after)
    images.write_image(tmp_path / "small.png", after[1:])
    return tmp_path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["learn", *arguments])
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


def test_the_command_finds_the_blur_of_a_photograph(photographs, capsys):
    status, out, err = run(capsys, "before.png", "after.png", "--size", "5", "--save", "kernel.npy")
    assert (status, err) == (0, "")
    assert "the images determine all of it" in out
    # Rounding to 256 grey levels leaves errors of up to half a level on 508 x 508 pixels.
    np.testing.assert_allclose(np.load("kernel.npy"), BLUR, atol=1e-3)
    assert (photographs / "learned.png").stat().st_size > 10_000


def test_the_picture_shows_the_kernel():
    fit = fit_kernel(band(), correlate2d(band(), EDGE, "valid"), (1, 2))
    figure = draw(band(), np.zeros((6, 8)), fit)
    texts = {text.get_text() for axis in figure.axes for text in axis.texts}
    assert texts == {"1.000", "-1.000"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["small.png", "--size", "5"],
            "the images must be of one size and have the same colours, got 512 x 512 pixels of",
        ),
        (["after.png", "--size", "five"], "--size must be one number, or rows,columns, got 'five'"),
        (["after.png", "--size", "5", "--lr", "1"], "`lr` must be above 0 and below 4.63"),
        (["after.png", "--size", "5", "--lr", "fast"], "--lr must be a number or auto, got 'fast'"),
    ],
    ids=" ".join,
)
def test_the_command_complains_in_one_sentence(photographs, capsys, arguments, words):
    status, _, err = run(capsys, "before.png", *arguments)
    assert status == 2
    assert words in err
    assert err.count("\n") == 1
