"""The parts of the kit that everything else rests on: oracle, tolerance, memory layouts, gradient laws."""

import numpy as np
import pytest

from convcore.problem import BOUNDARIES
from convcore.testing.engine import packages_that_run
from convcore.testing.gradients import assert_adjoint, assert_finite_differences
from convcore.testing.oracle import reference, source_pixel
from convcore.testing.problems import make_problem, random_operands, sibling
from convcore.testing.strategies import MEMORIES, in_memory
from convcore.testing.tolerance import allowed_error, assert_within


@pytest.mark.parametrize("boundary", BOUNDARIES[1:])
@pytest.mark.parametrize("size", range(1, 6))
def test_boundaries_are_those_of_numpy_pad(boundary, size):
    for before, after in np.ndindex(size, size):  # NumPy 1 errs beyond one reflection
        expected = np.pad(np.arange(size), (before, after), mode=boundary)
        assert [source_pixel(i, size, boundary) for i in range(-before, size + after)] == expected.tolist()


@pytest.mark.parametrize(
    ("boundary", "period"), [("wrap", [0, 1, 2]), ("symmetric", [0, 1, 2, 2, 1, 0]), ("reflect", [0, 1, 2, 1])]
)
def test_boundaries_repeat(boundary, period):
    expected = np.tile(period, 20).tolist()
    first = -10 * len(period)
    assert [source_pixel(first + i, 3, boundary) for i in range(len(expected))] == expected


def test_forward_by_hand():
    problem = make_problem(
        images=1, channels=(1, 1), size=(2, 3), kernel=(1, 2), padding=((0, 0), (1, 0)), fill_value=10.0
    )
    x = np.array([[[[1, 2, 3], [4, 5, 6]]]], np.float32)
    weight, bias = np.array([[[[1, -1]]]], np.float32), np.array([100], np.float32)
    expected = [[[[109, 99, 99], [106, 99, 99]]]]
    np.testing.assert_array_equal(reference(problem, x, weight, bias), expected)


def test_gradients_by_hand():
    problem = make_problem(images=1, channels=(1, 1), size=(1, 3), kernel=(1, 2), bias=False)
    x, weight = np.array([[[[1.0, 2, 3]]]]), np.array([[[[10.0, 20]]]])
    grad_out = np.array([[[[5.0, 7]]]])
    assert reference(sibling(problem, "grad_input"), grad_out, weight).tolist() == [[[[50, 170, 140]]]]
    assert reference(sibling(problem, "grad_weight"), x, grad_out).tolist() == [[[[19, 31]]]]
    assert reference(sibling(problem, "grad_bias"), grad_out).tolist() == [12]


def test_pooling_by_hand():
    x = np.array([[[[1.0, 3, 3], [-2, np.nan, 0]]]])
    problem = make_problem("max_pool", images=1, channels=(1, 1), size=(2, 3), kernel=(1, 2), padding=((0, 0), (1, 0)))
    np.testing.assert_array_equal(reference(problem, x), [[[[1, 3, 3], [-2, np.nan, np.nan]]]])
    grad_out = np.array([[[[1.0, 2, 4], [8, 16, 32]]]])
    assert reference(sibling(problem, "max_pool_grad"), x, grad_out).tolist() == [[[[1, 6, 0], [8, 48, 0]]]]


def test_integers_are_exact_beyond_int64():
    problem = make_problem(images=1, channels=(1, 1), size=(1, 2), kernel=(1, 2), bias=False)
    x, weight = np.full((1, 1, 1, 2), 2**62), np.full((1, 1, 1, 2), 2**62)
    assert reference(problem, x, weight).item() == 2**125


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_reference_obeys_the_laws(boundary):
    problem = make_problem(
        size=(4, 5), stride=(2, 1), padding=((1, 2), (3, 0)), boundary=boundary, dtypes=("float64", "float64")
    )

    def compute(problem, first, second, bias):
        return reference(problem, first, second, bias).astype(problem.result_dtype)

    assert_adjoint(compute, problem)
    assert_finite_differences(compute, make_problem(images=1, channels=(1, 2), size=(4, 3), dtypes=problem.dtypes))


def test_the_laws_are_broken_by_a_wrong_gradient():
    problem = make_problem(dtypes=("float64", "float64"))

    def compute(problem, first, second, bias):
        right = reference(problem, first, second, bias).astype(problem.result_dtype)
        return right * (1 + 1e-6 * (problem.op == "grad_weight"))

    with pytest.raises(AssertionError, match="grad_weight is not the adjoint of forward"):
        assert_adjoint(compute, problem)
    small = make_problem(images=1, channels=(1, 1), size=(4, 3), dtypes=problem.dtypes)
    with pytest.raises(AssertionError, match=r"grad_weight at \(0, 0, 0, 0\) is"):
        assert_finite_differences(compute, small)


class TestTolerance:
    problem = make_problem()

    def right(self):
        operands = random_operands(self.problem)
        return reference(self.problem, *operands).astype(np.float32), operands

    def test_passes_what_is_within(self):
        result, operands = self.right()
        assert_within(result + 0.9 * allowed_error(self.problem, *operands).astype(np.float32), self.problem, *operands)

    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
    def test_winograd_is_held_to_the_largest_pixel_of_a_tile(self, op):
        problem = make_problem(op, images=1, channels=(2, 2), size=(40, 40), bias=False)
        first, second, _ = random_operands(problem)
        plain, outlier = first.copy(), first.copy()
        outlier[0, 0, 20, 20] = 1e4
        for algorithm, reach in (("winograd2", 3), ("winograd4", 5)):
            changed = allowed_error(problem, outlier, second, algorithm=algorithm) > allowed_error(
                problem, plain, second, algorithm=algorithm
            )
            if op == "grad_weight":
                assert changed[:, 0].all()
                assert not changed[:, 1].any()
                continue
            lines = np.flatnonzero(changed.any(axis=(0, 1, 3)))
            assert lines[-1] - lines[0] == 2 * reach + 2
            assert not np.isnan(allowed_error(problem, outlier * np.float32("inf"), second, algorithm=algorithm)).any()

    @pytest.mark.parametrize(("op", "stride", "dilation"), [("forward", 2, 1), ("forward", 1, 3), ("grad_input", 1, 3)])
    def test_a_winograd_tile_has_pixels_a_step_apart_and_one_where_there_is_one_tap(self, op, stride, dilation):
        problem = make_problem(
            op, images=1, channels=(2, 2), size=(40, 61), kernel=(1, 4), stride=(1, stride), dilation=(1, dilation),
            bias=False,
        )  # fmt: skip
        first, second, _ = random_operands(problem)
        outlier = first.copy()
        outlier[0, 0, 20, 25] = 1e4
        plain, changed = (allowed_error(problem, image, second, algorithm="winograd2") for image in (first, outlier))
        _, _, lines, columns = np.nonzero(changed > plain)
        assert set(lines) == {20}
        # 3 pixels of its phase on each side, and what sees those.
        far = {25 + step * dilation * stride for step in range(-3, 4)}
        taps = {tap * dilation for tap in range(4)}
        if op == "forward":
            assert set(columns) == {q for q in range(61) if any(q * stride + tap in far for tap in taps)}
        else:
            assert set(columns) == {pixel + tap for pixel in far for tap in taps}

    def test_names_the_worst_element(self):
        result, operands = self.right()
        result[1, 2, 3, 4] += 0.5
        result[0, 0, 0, 0] += 0.25
        with pytest.raises(AssertionError, match=r"^2 of 240 elements are wrong; the worst, at \(1, 2, 3, 4\), is"):
            assert_within(result, self.problem, *operands)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_a_number_must_stay_a_number(self, value):
        result, operands = self.right()
        result[1, 2, 3, 4] = value
        with pytest.raises(AssertionError, match="1 of 240 elements are wrong"):
            assert_within(result, self.problem, *operands)

    @pytest.mark.parametrize("value", [0, -np.inf, np.nan])
    def test_an_infinity_must_keep_its_sign(self, value):
        result, operands = self.right()
        operands[2][0] = np.inf
        result[:, 0] = value
        with pytest.raises(AssertionError, match="60 of 240 elements are wrong"):
            assert_within(result, self.problem, *operands)

    def test_dtype_and_shape_count(self):
        result, operands = self.right()
        with pytest.raises(AssertionError, match="dtype is float64, must be float32"):
            assert_within(result.astype(np.float64), self.problem, *operands)
        with pytest.raises(AssertionError, match="shape is"):
            assert_within(result[:1], self.problem, *operands)

    def test_one_product_left_out_is_found(self):
        """In a sum of 288 products of one magnitude, the bound is far below a single one of them."""
        problem = make_problem(channels=(32, 1), bias=False)
        ones = [np.ones(shape, np.float32) for shape in problem.operand_shapes]
        assert allowed_error(problem, *ones).max() < 0.01


@pytest.mark.parametrize("memory", MEMORIES)
def test_memory_layouts(memory):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    laid = in_memory(array, memory)
    np.testing.assert_array_equal(laid, array)
    assert not np.shares_memory(laid, array)
    assert laid.flags.c_contiguous == (memory not in ("fortran", "negative", "strided"))
    assert laid.flags.aligned == (memory != "misaligned")
    assert laid.flags.writeable == (memory != "readonly")
    assert laid.dtype.isnative == (memory != "byteswapped")


def test_packages_that_run():
    with packages_that_run() as seen:
        np.pad([1], 1)
    assert "numpy" in seen
    assert "convcore_numpy" not in seen
