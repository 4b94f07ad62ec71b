"""The command line as a user meets it: output, exit status, and one sentence when something is wrong."""

import json
import sys
from pathlib import Path

import numpy as np
import png
import pytest
from PIL import Image

import convcore
from convcore.cli import images, main

RNG = np.random.default_rng(7)


@pytest.fixture
def run(capsys):
    """Return a function that runs the command line in this process: (exit status, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run


@pytest.fixture
def grey(tmp_path):
    """Return the path and the pixels of a small grey image."""
    pixels = RNG.integers(0, 256, (9, 11), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    return tmp_path / "grey.png", pixels


def test_without_arguments_the_help_is_printed(run):
    status, out, err = run()
    assert (status, err) == (0, "")
    for command in ("demo", "backends", "doctor", "filter", "explain", "test"):
        assert command in out


def test_backends_table_names_every_backend(run):
    status, out, _ = run("backends")
    assert status == 0
    for info in convcore.backends():
        assert info.name in out


def test_backends_as_json(run):
    status, out, _ = run("backends", "--json")
    assert status == 0
    records = json.loads(out)
    assert [record["name"] for record in records] == [info.name for info in convcore.backends()]
    assert {"name", "version", "state", "devices", "dtypes", "reason", "install_hint"} <= set(records[0])


def test_doctor_names_the_remedy_of_a_backend_without_device(run, monkeypatch):
    sick = convcore.backends()[0].__class__(
        "gpu", "no device", reason="no driver was found", install_hint="pip install a-driver"
    )
    monkeypatch.setattr(convcore, "backends", lambda: [sick])
    status, out, err = run("doctor")
    assert (status, err) == (1, "")
    assert "gpu: no device\n  why: no driver was found\n  to do: pip install a-driver\n" in out


def test_doctor_is_content_when_all_are_ready(run, monkeypatch):
    ready = [info for info in convcore.backends() if info.state == "ready"]
    monkeypatch.setattr(convcore, "backends", lambda: ready)
    status, out, _ = run("doctor")
    assert status == 0
    assert "numpy: ready" in out


# ---------------------------------------------------------------- filter


def test_filter_grey_writes_what_corr2d_computes(run, grey, tmp_path):
    source, pixels = grey
    status, out, _ = run("filter", str(source), str(tmp_path / "out.png"), "--kernel", "1,-1", "--pixels", "absolute")
    assert status == 0
    assert "--pixels absolute cut 0.0% of them" in out
    wide = np.pad(pixels.astype(int), ((0, 0), (0, 1)))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), abs(wide[:, :-1] - wide[:, 1:]))


def test_filter_says_how_much_was_cut(run, grey, tmp_path):
    source, pixels = grey
    _, out, _ = run("filter", str(source), str(tmp_path / "out.png"), "--kernel", "edge", "--padding", "valid")
    difference = pixels[:, :-1].astype(int) - pixels[:, 1:]
    assert (
        f"results from {difference.min()} to {difference.max()}, --pixels clip cut {np.mean(difference < 0):.1%}" in out
    )
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), difference.clip(0))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_filter_colour_keeps_depth_and_transparency(run, tmp_path, channels, dtype):
    pixels = RNG.integers(0, np.iinfo(dtype).max + 1, (6, 7, channels), dtype)
    images.write_image(tmp_path / "in.png", pixels)
    status, _, _ = run("filter", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--kernel", "0,0,0;0,0,1;0,0,0")
    assert status == 0
    result = images.read_image(tmp_path / "out.png")
    assert result.dtype == dtype
    np.testing.assert_array_equal(result[:, :-1, :3], pixels[:, 1:, :3])
    np.testing.assert_array_equal(result[:, -1, :3], 0)
    np.testing.assert_array_equal(result[..., 3:], pixels[..., 3:])


def test_filter_reads_16_bit_grey(run, tmp_path):
    pixels = RNG.integers(0, 65536, (5, 4), np.uint16)
    png.from_array(pixels, "L;16").save(str(tmp_path / "in.png"))
    run("filter", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--kernel", "identity")
    np.testing.assert_array_equal(images.read_image(tmp_path / "out.png"), pixels)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "CMYK"])
def test_filter_reads_other_modes(run, tmp_path, mode):
    suffix = ".tif" if mode == "CMYK" else ".png"
    Image.fromarray(RNG.integers(0, 256, (5, 6, 3), np.uint8)).convert(mode).save(tmp_path / f"in{suffix}")
    status, _, _ = run("filter", str(tmp_path / f"in{suffix}"), str(tmp_path / "out.png"), "--kernel", "identity")
    assert status == 0


def test_filter_kernel_from_file_and_boundary(run, grey, tmp_path):
    source, pixels = grey
    np.save(tmp_path / "k.npy", [[0, 1]])
    arguments = ("--kernel", str(tmp_path / "k.npy"), "--boundary", "edge", "--backend", "numpy")
    run("filter", str(source), str(tmp_path / "out.png"), *arguments)
    expected = np.pad(pixels, ((0, 0), (0, 1)), "edge")[:, 1:]
    np.testing.assert_array_equal(images.read_image(tmp_path / "out.png"), expected)


@pytest.mark.parametrize(
    ("how", "expected", "cut"),
    [
        ("clip", [0, 0, 2, 255], 0.5),
        ("absolute", [10, 0, 2, 255], 0.25),
        ("offset", [118, 128, 130, 255], 0.25),
        ("stretch", [0, 8, 10, 255], 0.0),
    ],
)
def test_pixel_mappings(how, expected, cut):
    values = np.array([[-10, 0, 1.6, 300]], np.float32)
    pixels, share = images.to_pixels(values, np.dtype(np.uint8), how)
    assert pixels.tolist() == [expected]
    assert share == cut


def test_stretch_of_a_constant_is_black():
    pixels, _ = images.to_pixels(np.full((2, 2), 7, np.float32), np.dtype(np.uint16), "stretch")
    assert not pixels.any()


def test_derivative_kernels_are_positive_where_the_image_gets_brighter():
    ramp = np.arange(5, dtype=np.float32) * np.ones((5, 1), np.float32)
    for name in ("prewitt", "scharr", "sobel"):
        assert (convcore.corr2d(ramp, images.KERNELS[f"{name}-x"]) > 0).all()
        assert (convcore.corr2d(np.ascontiguousarray(ramp.T), images.KERNELS[f"{name}-y"]) > 0).all()
        assert (convcore.corr2d(ramp, images.KERNELS[f"{name}-y"]) == 0).all()


# ---------------------------------------------------------------- explain and test


def test_explain_agrees_with_the_library(run):
    arguments = ("--input", "1,3,224,224", "--weight", "64,3,7,7", "--stride", "2", "--padding", "3")
    status, out, _ = run("explain", "forward", *arguments)
    assert status == 0
    assert out == f"{convcore.explain('conv2d', (1, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3)}\n"


@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight", "grad_bias"])
def test_explain_knows_every_op(run, op):
    geometry = ("--stride", "2,1", "--padding", "1,0,2,1", "--dilation", "1,2", "--groups", "2", "--dtype", "float64")
    status, out, _ = run("explain", op, "--input", "2,4,9,8", "--weight", "6,2,3,2", *geometry, "--json")
    assert status == 0
    problem = json.loads(out)["problem"]
    assert problem["op"] == op
    assert problem["output_shape"] == [2, 6, 4, 9]


def test_explain_runs_a_problem_where_it_is_asked_to(run):
    arguments = ("explain", "grad_input", "--input", "2,4,9,8", "--weight", "6,4,3,2", "--backend", "numpy", "--json")
    for more, names in ((), []), (("--run",), ["call"]):
        status, out, _ = run(*arguments, *more)
        assert status == 0
        assert [step["name"] for step in json.loads(out)["steps"]] == names


def test_test_runs_the_kit_in_a_pytest_of_its_own(run, monkeypatch):
    seen = []

    class Finished:
        returncode = 5

    monkeypatch.setattr("subprocess.run", lambda command, env: seen.append(command) or Finished)
    status, _, _ = run("test", "numpy", "--profile", "quick", "--report", "r.json", "-x", "-k", "gradients")
    (command,) = seen
    assert command[0] == sys.executable
    options = ["--convcore-backend", "numpy", "--convcore-profile", "quick", "--convcore-table"]
    options += ["--convcore-report", str(Path("r.json").absolute())]
    assert command[-len(options) - 3 :] == [*options, "-x", "-k", "gradients"]
    assert status == 1


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["filtr"], "No such command 'filtr'. Did you mean 'filter'? (see convcore --help)"),
        (["filter", "in.png"], "Missing argument 'OUT.png' (see convcore --help)"),
        (["demo", "--output"], "Option '--output' requires an argument (see convcore --help)"),
        (
            ["explain", "forwards", "--input", "1,1,4,4", "--weight", "1,1,2,2"],
            "OP must be one of forward, grad_input, grad_weight, grad_bias, got 'forwards'",
        ),
        (
            ["explain", "forward", "--input", "1,x", "--weight", "1,1,2,2"],
            "--input must be integers separated by commas, got '1,x'",
        ),
        (
            ["explain", "forward", "--input", "1,1,4,4", "--weight", "1,1,2,2", "--dtype", "flaot32"],
            "--dtype must be the name of a NumPy dtype, got 'flaot32'",
        ),
    ],
)
def test_wrong_arguments_are_one_sentence_and_status_2(run, arguments, sentence):
    assert run(*arguments) == (2, "", f"convcore: {sentence}\n")


def test_unknown_backend(run):
    status, out, err = run("test", "nunpy")
    assert (status, out) == (2, "")
    assert err.startswith("convcore: unknown backend 'nunpy' (from convcore test); did you mean 'numpy'?")


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        (
            "--kernel",
            "sobelx",
            "--kernel must be a name, a .npy file or rows such as '1,-1' or '1,2;3,4', got 'sobelx'; did you mean "
            "'sobel-x'?; names: box, edge, emboss, gaussian, identity, laplacian, sharpen, prewitt-x, prewitt-y, "
            "scharr-x, scharr-y, sobel-x, sobel-y",
        ),
        ("--pixels", "cut", "--pixels must be one of clip, absolute, offset, stretch, got 'cut'"),
    ],
)
def test_filter_refuses_what_it_does_not_know(run, grey, tmp_path, option, value, sentence):
    kernel = () if option == "--kernel" else ("--kernel", "edge")
    target = tmp_path / "out.png"
    assert run("filter", str(grey[0]), str(target), *kernel, option, value) == (2, "", f"convcore: {sentence}\n")
    assert not target.exists()


def test_filter_of_something_that_is_no_image(run, tmp_path):
    path = tmp_path / "text.png"
    path.write_text("not an image")
    result = run("filter", str(path), str(tmp_path / "out.png"), "--kernel", "edge")
    assert result == (2, "", f"convcore: {path} is not an image that can be read\n")


def test_filter_of_a_missing_file(run, tmp_path):
    path = tmp_path / "missing.png"
    status, _, err = run("filter", str(path), str(tmp_path / "out.png"), "--kernel", "edge")
    assert (status, err) == (2, f"convcore: [Errno 2] No such file or directory: '{path}'\n")


def test_filter_writes_png_only(run, grey, tmp_path):
    target = tmp_path / "out.jpg"
    result = run("filter", str(grey[0]), str(target), "--kernel", "edge")
    assert result == (2, "", f"convcore: the output must be a .png file, got {target}\n")


def test_filter_with_transparency_must_keep_the_size(run, tmp_path):
    images.write_image(tmp_path / "in.png", np.zeros((4, 4, 4), np.uint8))
    result = run(
        "filter", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--kernel", "edge", "--padding", "valid"
    )
    sentence = "an image with transparency must keep its size: use --padding same, got 'valid'"
    assert result == (2, "", f"convcore: {sentence}\n")


def test_a_missing_library_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "convcore.cli.commands", raising=False)
    assert run("backends") == (2, "", 'convcore: this command needs typer: pip install "convcore[cli]"\n')


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("CONVCORE_DEBUG", "1")
    with pytest.raises(ValueError, match="--input must be integers"):
        main(["explain", "forward", "--input", "x", "--weight", "1,1,2,2"])
