"""Losses, steps, runs and their checkpoints, and the digits."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import convcore
from convcore import AvgPool2D, Conv2D, Dense, ReLU, Sequential
from convcore.cli import main
from convcore.cli.train import digits_training, draw_curves, lenet, load_digits
from convcore.training import SGD, Adam, DivergedError, Training, softmax_cross_entropy

#: How far the curves of two backends may be apart: rounding alone at first, and then what training makes of it.
CURVE_TOLERANCE = {"float64": 1e-6, "float32": 1e-5}


def run_of_digits(dtype="float64", lr=0.05, batch=32, seed=0):
    return digits_training(dtype, lr, 0.9, batch, seed)


def small_run(lr=0.1, **keywords):
    """Tell bright images from dark ones."""
    rng = np.random.default_rng(0)
    x, labels = rng.uniform(0, 0.5, (40, 1, 6, 6)), np.arange(40) % 2
    x[labels == 1] += 0.5
    network = Sequential(Conv2D(2, 3), ReLU(), AvgPool2D(2), Dense(2))
    network.initialize(seed=1)
    optimiser = keywords.pop("optimiser", SGD)(network, lr)
    return Training(network, optimiser, x[:30], labels[:30], (x[30:], labels[30:]), **{"batch": 7} | keywords)


# ---------------------------------------------------------------- loss and steps


def test_cross_entropy_against_its_definition():
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(5, 4)), np.array([0, 3, 1, 1, 2])
    loss, grad = softmax_cross_entropy(scores, labels)
    share = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert loss == pytest.approx(-np.log(share[range(5), labels]).mean(), rel=1e-12)
    for index in np.ndindex(scores.shape):
        nudged = scores.copy()
        nudged[index] += 1e-6
        assert grad[index] == pytest.approx((softmax_cross_entropy(nudged, labels)[0] - loss) / 1e-6, abs=1e-5)
    assert softmax_cross_entropy(np.array([[1e6, 0.0]]), [0])[0] == 0


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_steps_are_those_of_pytorch(kind):
    layer = Dense(3, in_channels=4)
    layer.initialize(0)
    leaves = [torch.tensor(p.data().copy(), requires_grad=True) for p in layer.parameters().values()]
    ours, theirs = {
        "SGD": lambda: (SGD(layer, 0.1, 0.8), torch.optim.SGD(leaves, 0.1, 0.8)),
        "Adam": lambda: (Adam(layer, 0.01), torch.optim.Adam(leaves, 0.01)),
    }[kind]()
    rng = np.random.default_rng(2)
    for _ in range(20):
        for parameter, leaf in zip(layer.parameters().values(), leaves, strict=True):
            parameter.grad()[...] = rng.normal(size=parameter.shape)
            leaf.grad = torch.tensor(parameter.grad().copy())
        ours.step()
        theirs.step()
        for parameter, leaf in zip(layer.parameters().values(), leaves, strict=True):
            np.testing.assert_allclose(parameter.data(), leaf.detach().numpy(), rtol=2e-5, atol=1e-6)


# ---------------------------------------------------------------- the digits


def test_the_digits_on_the_cpu(tmp_path):
    training = run_of_digits()
    with convcore.use("cpu"):
        start = time.process_time()
        for _ in range(40):
            training.run_epoch()
        assert time.process_time() - start < 2 * 120  # two cores, two minutes
    assert len(training.held_out[0]) == 1797 // 5
    assert training.accuracies[-1] >= 0.97
    assert len(training.losses) == 40 * training.steps_per_epoch
    draw_curves(training).savefig(tmp_path / "curves.png")


@pytest.mark.parametrize("dtype", CURVE_TOLERANCE)
def test_every_backend_gives_the_same_curve(dtype):
    curves = {}
    for backend in ("numpy", "cpu", "opencl"):
        with convcore.use(backend):
            training = run_of_digits(dtype)
            for _ in range(2):
                training.run_epoch()
            curves[backend] = np.array(training.losses + training.held_out_losses)
    for backend in ("cpu", "opencl"):
        apart = np.abs(curves[backend] - curves["numpy"]).max()
        assert apart <= CURVE_TOLERANCE[dtype], f"{backend} is {apart} from numpy"


@pytest.mark.parametrize("dtype", CURVE_TOLERANCE)
def test_a_hundred_steps_are_those_of_pytorch(dtype):
    training = run_of_digits(dtype)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5, padding=2), torch.nn.ReLU(), torch.nn.AvgPool2d(2),
        torch.nn.Conv2d(6, 16, 5, padding=2), torch.nn.ReLU(), torch.nn.AvgPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(64, 120), torch.nn.ReLU(), torch.nn.Linear(120, 84), torch.nn.ReLU(),
        torch.nn.Linear(84, 10),
    ).to(getattr(torch, dtype))  # fmt: skip
    pairs = list(zip(training.network.parameters().values(), theirs.parameters(), strict=True))
    for mine, leaf in pairs:
        leaf.data = torch.tensor(mine.data()).reshape(leaf.shape).clone()
    optimiser = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    batches = [batch for training.epoch in range(3) for batch in training._batches()][:100]
    with convcore.use("cpu"):
        for images, labels in batches:
            training._step(images, labels)
            loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(images)), torch.tensor(labels))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            assert abs(training.losses[-1] - loss.item()) <= CURVE_TOLERANCE[dtype]
    assert len(training.losses) == 100
    scale = 1e-9 if dtype == "float64" else 1e-4
    for mine, leaf in pairs:
        np.testing.assert_allclose(mine.data().reshape(leaf.shape), leaf.detach().numpy(), rtol=0, atol=scale)


def test_the_held_out_fifth_is_never_learnt_from():
    (x, _), (held_out, labels) = load_digits()
    assert len(x) + len(held_out) == 1797
    seen = {image.tobytes() for image in x}
    assert sum(image.tobytes() in seen for image in held_out) == 0
    assert set(labels) == set(range(10))


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("optimiser", [SGD, Adam], ids=lambda kind: kind.__name__)
def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path, optimiser):
    whole, first, second = (small_run(optimiser=optimiser) for _ in range(3))
    for _ in range(5):
        whole.run_epoch()
    for _ in range(2):
        first.run_epoch()
    first.save(tmp_path / "run.npz")
    second.resume(tmp_path / "run.npz")
    for _ in range(3):
        second.run_epoch()
    assert (second.epoch, second.losses, second.accuracies) == (5, whole.losses, whole.accuracies)
    for name, parameter in whole.network.parameters().items():
        np.testing.assert_array_equal(parameter.data(), second.network.parameters()[name].data())


def test_an_interrupt_while_writing_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    training, path = small_run(), tmp_path / "run.npz"
    training.run_epoch()
    training.save(path)
    before = path.read_bytes()
    savez = np.savez

    def half(file, **arrays):
        savez(file, **arrays)
        os.truncate(file, os.path.getsize(file) // 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half)
    training.run_epoch()
    with pytest.raises(KeyboardInterrupt):
        training.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_command_can_be_resumed(tmp_path):
    # What runs in the background of a shell starts with the interrupt ignored.
    program = "import signal; signal.signal(2, signal.default_int_handler); from convcore.cli import main; main()"
    command = [sys.executable, "-c", program]
    command += ["train", "digits", "--checkpoint", "run.npz", "--backend", "cpu"]
    endless = [*command, "--epochs", "100000"]
    with subprocess.Popen(endless, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as running:
        while not (tmp_path / "run.npz").exists():
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        said = running.communicate()[0]
    assert running.returncode == 130
    assert "interrupted in epoch" in said
    assert "run.npz holds epoch" in said
    training = run_of_digits()
    training.resume(tmp_path / "run.npz")
    more = [*command, "--resume", "--epochs", str(training.epoch + 1), "--output", "curves.png"]
    result = subprocess.run(more, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"going on after epoch {training.epoch}" in result.stdout
    assert (tmp_path / "curves.png").exists()


# ---------------------------------------------------------------- bad input


def broken(x, value):
    x = x.copy()
    x.flat[5] = value
    return x


def test_a_learning_rate_that_diverges_is_explained():
    training = small_run(lr=1e6)
    words = r"^training diverged: the loss went from 0\.\d+ to \S+ in \d steps with lr=1e\+06; take a smaller"
    with pytest.raises(DivergedError, match=words):
        training.run_epoch()
    assert np.isfinite(training.losses).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_the_data(value):
    good = small_run()
    with pytest.raises(ValueError, match=r"^Training: `x` must be finite, got 1 NaN or infinite of 1080$"):
        Training(good.network, good.optimiser, broken(good.x, value), good.labels, good.held_out)
    held_out = (broken(good.held_out[0], value), good.held_out[1])
    with pytest.raises(ValueError, match=r"^Training: `held_out` must be finite, got 1 NaN or infinite of 360$"):
        Training(good.network, good.optimiser, good.x, good.labels, held_out)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    training, path = small_run(), tmp_path / "run.npz"
    training.run_epoch()
    training.save(path)
    other = run_of_digits()
    before = other.network.state_dict()
    for run, words in (
        (other, "is a checkpoint of another network: it has Sequential(Conv2D(2, kernel_size=(3, 3), "),
        (small_run(batch=8), "is a checkpoint of another batch: it has 7, this is 8"),
        (
            small_run(lr=0.2),
            "is a checkpoint of another optimiser: it has SGD(lr=0.1, momentum=0.0), this is SGD(lr=0.2",
        ),
        (small_run(seed=3), "is a checkpoint of another seed: it has 0, this is 3"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message follows
            run.resume(path)
        assert words in str(caught.value)
    for name, array in other.network.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a whole"):
        training.resume(path)
    np.savez(path, x=np.ones(3))
    with pytest.raises(ValueError, match="is not a checkpoint of a training"):
        training.resume(path)


BAD = {
    "labels": (lambda: softmax_cross_entropy(np.zeros((2, 3)), [0, 3]), "`labels` must be from 0 to 2, got 0 to 3"),
    "labels of reals": (lambda: softmax_cross_entropy(np.zeros((2, 3)), [0.0, 1]), "`labels` must be 2 integers"),
    "no rows": (lambda: softmax_cross_entropy(np.zeros((0, 3)), np.zeros(0, int)), "at least one row of `scores`"),
    "scores": (lambda: softmax_cross_entropy(np.zeros(3), [0]), "`scores` must be floating, (N, classes), got"),
    "lr": (lambda: SGD(lenet(), 0), "SGD: `lr` must be positive and finite, got 0"),
    "lr that is no number": (lambda: Adam(lenet(), float("nan")), "Adam: `lr` must be positive and finite, got nan"),
    "momentum": (lambda: SGD(lenet(), 1, 1.0), "SGD: `momentum` must be from 0 to less than 1, got 1.0"),
    "batch": (lambda: small_run(batch=0), "Training: `batch` must be at least 1, got 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case):
    call, words = BAD[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message follows
        call()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["letters"], "train: `data` must be one of digits, got 'letters'"),
        (["digits", "--resume"], "--resume needs --checkpoint, the file to go on from"),
        (["digits", "--resume", "--checkpoint", "none.npz"], "No such file or directory: 'none.npz'"),
        (["digits", "--lr", "1e5"], "training diverged: the loss went from 2.3"),
        (["digits", "--dtype", "float16"], "train: `dtype` must be one of float32, float64, got 'float16'"),
        (["digits", "--backend", "gpu"], "unknown backend 'gpu' (from use())"),
    ],
    ids=" ".join,
)
def test_the_command_complains_in_one_sentence(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["train", *arguments])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert words in said
    assert said.count("\n") == 1
