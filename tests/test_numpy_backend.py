"""What the NumPy backend promises beyond the conformance kit."""

import tracemalloc

import numpy as np
import pytest
from convcore_numpy.backend import NumPyBackend

import convcore
from convcore.testing.problems import make_problem, random_operands, sibling


def compute(problem, *operands):
    out = np.empty(problem.result_shape, problem.result_dtype)
    NumPyBackend().plan(problem).run(*operands, out)
    return out


def test_refuses_other_algorithms_in_words():
    answer = NumPyBackend().supports(make_problem(algorithm="winograd"))
    assert answer == "the only algorithm is 'direct', got algorithm='winograd'"


def test_refuses_a_workspace_that_is_too_small_in_words():
    problem = make_problem(workspace_limit=100)
    needed = NumPyBackend().plan(problem).workspace_bytes
    assert NumPyBackend().supports(problem) == f"needs {needed} bytes of workspace, got workspace_limit=100"
    assert NumPyBackend().supports(make_problem(workspace_limit=needed)) is True


@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight", "grad_bias"])
@pytest.mark.parametrize("kernel", [(3, 3), (15, 15)])
def test_memory_is_what_the_plan_says_and_a_few_times_the_operands(op, kernel):
    padding = tuple((k // 2, k // 2) for k in kernel)
    problem = make_problem(op, images=2, channels=(8, 8), size=(64, 64), kernel=kernel, padding=padding, bias=False)
    operands = random_operands(problem)
    plan, out = NumPyBackend().plan(problem), np.empty(problem.result_shape, problem.result_dtype)
    tracemalloc.start()
    plan.run(*operands, out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 1.1 * plan.workspace_bytes + 2**16
    assert plan.workspace_bytes <= 4 * problem.bytes


def test_half_precision_is_summed_in_single():
    problem = make_problem(channels=(64, 1), dtypes=("float16", "float16"), bias=False)
    x, weight = (np.full(shape, 0.1, np.float16) for shape in problem.operand_shapes)
    exact = 64 * 9 * np.float64(np.float16(0.1)) ** 2
    assert compute(problem, x, weight, None).flat[0] == np.float16(exact)


def test_nan_and_overflow_warn_nobody():
    problem = make_problem(bias=False)
    x, weight, _ = random_operands(problem)
    x.flat[0], x.flat[1], weight.flat[0] = np.inf, np.nan, -np.inf
    with np.errstate(all="raise"):
        for op, operands in {"forward": (x, weight), "grad_input": (compute(problem, x, weight, None), weight)}.items():
            assert np.isnan(compute(sibling(problem, op), *operands, None)).any()


def test_the_gradient_of_a_strided_correlation_multiplies_no_gaps():
    """With a stride, grad_input must not meet the zeros between the pixels of grad_out: 0 * inf is NaN."""
    weight = np.full((1, 1, 2, 2), np.inf, np.float32)
    gradient = convcore.conv2d_grad_input(
        np.ones((1, 1, 2, 2), np.float32), weight, (1, 1, 6, 6), stride=4, backend="numpy"
    )
    assert not np.isnan(gradient).any()
    assert np.isinf(gradient).sum() == 16


@pytest.mark.parametrize("dtype", ["float16", np.longdouble])
def test_dtypes_no_other_backend_has(dtype):
    x, weight = np.ones((1, 2, 4, 4), dtype), np.ones((3, 2, 3, 3), dtype)
    y = convcore.conv2d(x, weight, backend="numpy")
    assert y.dtype == dtype
    assert (y == 18).all()


def test_padding_repeats_the_image_as_often_as_it_takes():
    x = np.array([[[[1, 2, 3]]]])
    one = np.ones((1, 1, 1, 1), int)
    y = convcore.conv2d(x, one, padding=((0, 0), (5, 6)), boundary="reflect", backend="numpy")
    assert y.ravel().tolist() == [2, 1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3, 2, 1]
    assert convcore.conv2d_grad_input(
        np.ones_like(y), one, x.shape, padding=((0, 0), (5, 6)), boundary="reflect", backend="numpy"
    ).ravel().tolist() == [4, 7, 3]
