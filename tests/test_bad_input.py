"""Every wrong argument has its own sentence, tested by its whole text, and changes nothing."""

import numpy as np
import pytest

import convcore

X = np.ones((2, 4, 6, 7), np.float32)
W = np.ones((8, 2, 3, 3), np.float32)  # groups=2
BIAS = np.ones(8, np.float32)


def conv(x=X, weight=W, bias=None, **keywords):
    return convcore.conv2d(x, weight, bias, **{"groups": 2, "backend": "numpy"} | keywords)


BAD_CONV2D = {
    "rank of x": (
        {"x": X[0]},
        ValueError,
        "conv2d: `x` must have 4 dimensions, 4 axes, got shape (4, 6, 7)",
    ),
    "rank of weight": (
        {"weight": W[0, 0]},
        ValueError,
        "conv2d: `weight` must have 4 dimensions, 4 axes, got shape (3, 3)",
    ),
    "channel count": (
        {"weight": np.ones((8, 3, 3, 3), np.float32)},
        ValueError,
        "conv2d: `weight` must have in_channels/groups=2 as its second axis, "
        "got weight (8, 3, 3, 3), in_channels=4, groups=2",
    ),
    "groups against in_channels": (
        {"groups": 3},
        ValueError,
        "conv2d: `groups` must divide in_channels, got groups=3, in_channels=4",
    ),
    "groups against out_channels": (
        {"weight": np.ones((7, 2, 3, 3), np.float32)},
        ValueError,
        "conv2d: `groups` must divide out_channels, got groups=2, out_channels=7",
    ),
    "zero groups": ({"groups": 0}, ValueError, "conv2d: `groups` must be at least 1, got 0"),
    "groups not an int": ({"groups": 2.0}, TypeError, "conv2d: `groups` must be an int, got 2.0"),
    "groups boolean": ({"groups": True}, TypeError, "conv2d: `groups` must be an int, got True"),
    "zero stride": ({"stride": 0}, ValueError, "conv2d: `stride` must be at least 1, got 0"),
    "negative stride": ({"stride": (1, -1)}, ValueError, "conv2d: `stride` must be at least 1, got -1"),
    "huge stride": (
        {"stride": 10**30},
        ValueError,
        "conv2d: `stride` must be at most 2147483647, got 1000000000000000000000000000000",
    ),
    "three strides": ({"stride": (1, 2, 3)}, ValueError, "conv2d: `stride` must be an int or a pair, got (1, 2, 3)"),
    "float stride": ({"stride": 1.0}, TypeError, "conv2d: `stride` must be an int, got 1.0"),
    "float in a pair": ({"stride": (1.0, 1)}, TypeError, "conv2d: `stride` must be an int, got 1.0"),
    "zero dilation": ({"dilation": 0}, ValueError, "conv2d: `dilation` must be at least 1, got 0"),
    "negative padding": ({"padding": -1}, ValueError, "conv2d: `padding` must be at least 0, got -1"),
    "negative side": (
        {"padding": ((0, -2), (0, 0))},
        ValueError,
        "conv2d: `padding` must be at least 0, got -2",
    ),
    "mixed padding": (
        {"padding": (1, (0, 0))},
        ValueError,
        "conv2d: `padding` must not mix ints and pairs, got 1 beside a pair",
    ),
    "three paddings": (
        {"padding": (1, 2, 3)},
        ValueError,
        "conv2d: `padding` must be an int, a pair, ((top, bottom), (left, right)) or a word, got (1, 2, 3)",
    ),
    "padding word": (
        {"padding": "sane"},
        ValueError,
        "conv2d: `padding` must be one of valid, same, same_lower, full, got 'sane'; did you mean 'same'?",
    ),
    "boundary": (
        {"boundary": "zeros"},
        ValueError,
        "conv2d: `boundary` must be one of constant, reflect, edge, wrap, symmetric, got 'zeros'",
    ),
    "layout": (
        {"layout": "NHCW"},
        ValueError,
        "conv2d: `layout` must be one of NCHW, NHWC, got 'NHCW'; did you mean 'NHWC'?",
    ),
    "accuracy": (
        {"accuracy": "best"},
        ValueError,
        "conv2d: `accuracy` must be one of strict, standard, fast, got 'best'",
    ),
    "fill_value a string": ({"fill_value": "0"}, TypeError, "conv2d: `fill_value` must be a number, got '0'"),
    "fill_value a list": ({"fill_value": [0]}, TypeError, "conv2d: `fill_value` must be a number, got [0]"),
    "fill_value complex": (
        {"fill_value": 1j},
        ValueError,
        "conv2d: `fill_value` must be representable in float32, got 1j",
    ),
    "fill_value too large": (
        {"fill_value": 1e300},
        ValueError,
        "conv2d: `fill_value` must be representable in float32, got 1e+300",
    ),
    "fill_value without constant": (
        {"fill_value": 1.0, "boundary": "reflect"},
        ValueError,
        "conv2d: `fill_value` needs boundary='constant', got boundary='reflect'",
    ),
    "empty kernel": (
        {"weight": np.ones((8, 2, 0, 3), np.float32)},
        ValueError,
        "conv2d: `weight` must not be empty, got shape (8, 2, 0, 3)",
    ),
    "no pixels": (
        {"x": np.ones((2, 4, 0, 7), np.float32)},
        ValueError,
        "conv2d: the input must have at least one pixel, got 0 rows and 7 columns",
    ),
    "kernel does not fit": (
        {"dilation": 3},
        ValueError,
        "conv2d: the kernel must fit into the padded input, got kernel (7, 7) with its dilation, padded input (6, 7)",
    ),
    "mismatched dtypes": (
        {"weight": W.astype(np.float64)},
        TypeError,
        "conv2d: `weight` must have the dtype of `x`, got x float32, weight float64; convert one with .astype()",
    ),
    "integer x, floating weight": (
        {"x": X.astype(np.uint8)},
        TypeError,
        "conv2d: `weight` must have the dtype of `x`, got x uint8, weight float32; convert one with .astype()",
    ),
    "uint64": (
        {"x": X.astype(np.uint64)},
        TypeError,
        "conv2d: `x` must not be uint64, its products do not fit int64; convert it with .astype('int64')",
    ),
    "booleans": (
        {"x": X > 0},
        TypeError,
        "conv2d: `x` must be floating, complex or integer, got dtype bool",
    ),
    "objects": (
        {"x": X.astype(object)},
        TypeError,
        "conv2d: `x` must be floating, complex or integer, got dtype object",
    ),
    "strings": ({"x": X.astype("U3")}, TypeError, "conv2d: `x` must be floating, complex or integer, got dtype <U3"),
    "dates": (
        {"x": X.astype("M8[s]")},
        TypeError,
        "conv2d: `x` must be floating, complex or integer, got dtype datetime64[s]",
    ),
    "None": ({"x": None}, TypeError, "conv2d: `x` must be an array of numbers, got a NoneType"),
    "a dict": ({"weight": {}}, TypeError, "conv2d: `weight` must be an array of numbers, got a dict"),
    "masked": (
        {"x": np.ma.masked_equal(X, 0)},
        TypeError,
        "conv2d: `x` must not be a masked array, its mask would be lost; fill it with .filled(value)",
    ),
    "bias of the wrong length": (
        {"bias": BIAS[:4]},
        ValueError,
        "conv2d: `bias` must have shape (8,), one value per out_channel, got (4,)",
    ),
    "bias of the wrong rank": (
        {"bias": BIAS[None]},
        ValueError,
        "conv2d: `bias` must have 1 dimension, (channels,), got shape (1, 8)",
    ),
    "bias of the wrong dtype": (
        {"bias": BIAS.astype(np.float64)},
        TypeError,
        "conv2d: `bias` must have the dtype of `x`, got x float32, bias float64",
    ),
    "out of the wrong shape": (
        {"out": np.zeros((2, 8, 4, 4), np.float32)},
        ValueError,
        "conv2d: `out` must have shape (2, 8, 4, 5), got (2, 8, 4, 4)",
    ),
    "out of the wrong dtype": (
        {"out": np.zeros((2, 8, 4, 5))},
        TypeError,
        "conv2d: `out` must have dtype float32, got float64",
    ),
    "out not an array": ({"out": [1]}, TypeError, "conv2d: `out` must be a numpy.ndarray, got list"),
}


@pytest.mark.parametrize("case", BAD_CONV2D)
@pytest.mark.parametrize("warm", [False, True], ids=["first call", "after a good call"])
def test_conv2d(case, warm):
    keywords, error, message = BAD_CONV2D[case]
    if warm:
        conv()
        conv(stride=(1, 1))
        conv(groups=2)
    out = keywords.get("out")
    before = np.array(out)
    with pytest.raises(error) as caught:
        conv(**keywords)
    assert str(caught.value) == message
    if isinstance(out, np.ndarray):
        assert np.array_equal(out, before)


def test_out_read_only():
    out = np.zeros((2, 8, 4, 5), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match=r"^conv2d: `out` must be writeable, got a read-only array$"):
        conv(out=out)


def test_out_overlapping_an_input_changes_nothing():
    memory = np.arange(400, dtype=np.float32)
    x, out = memory[:336].reshape(X.shape), memory[76:396].reshape(2, 8, 4, 5)
    before = memory.copy()
    with pytest.raises(ValueError, match=r"^conv2d: `out` must not share memory with `x`$"):
        conv(x, out=out)
    assert np.array_equal(memory, before)


def test_out_interleaved_with_an_input_is_safe():
    memory = np.zeros((2, 8, 4, 5, 2), np.float32)
    bias = memory[0, :, 0, 0, 1]
    result = conv(bias=bias, out=memory[..., 0])
    assert np.array_equal(result, conv(bias=bias.copy()))
    assert not memory[..., 1].any()


G = np.ones((2, 8, 4, 5), np.float32)
BAD_OTHERS = {
    "grad_input: grad_out": (
        lambda: convcore.conv2d_grad_input(G[:1], W, X.shape, groups=2),
        ValueError,
        "conv2d_grad_input: `grad_out` must have the shape of the forward result, (2, 8, 4, 5), got (1, 8, 4, 5)",
    ),
    "grad_input: input_shape": (
        lambda: convcore.conv2d_grad_input(G, W, (4, 6, 7), groups=2),
        ValueError,
        "conv2d_grad_input: `input_shape` must be a shape of 4 ints, got (4, 6, 7)",
    ),
    "grad_weight: weight_shape": (
        lambda: convcore.conv2d_grad_weight(X, G, (8, 3, 3, 3), groups=2),
        ValueError,
        "conv2d_grad_weight: `weight` must have in_channels/groups=2 as its second axis, "
        "got weight (8, 3, 3, 3), in_channels=4, groups=2",
    ),
    "grad_weight: empty": (
        lambda: convcore.conv2d_grad_weight(X, G, (8, 2, 3, 0), groups=2),
        ValueError,
        "conv2d_grad_weight: `weight_shape` must not be empty, got shape (8, 2, 3, 0)",
    ),
    "grad_bias: rank": (
        lambda: convcore.conv2d_grad_bias(G[0]),
        ValueError,
        "conv2d_grad_bias: `grad_out` must have 4 dimensions, 4 axes, got shape (8, 4, 5)",
    ),
    "transpose: channels": (
        lambda: convcore.conv_transpose2d(X, W),
        ValueError,
        "conv_transpose2d: `weight` must have in_channels=4 as its first axis, got weight (8, 2, 3, 3)",
    ),
    "transpose: output_padding": (
        lambda: convcore.conv_transpose2d(G, W, stride=2, output_padding=2),
        ValueError,
        "conv_transpose2d: `output_padding` must be smaller than stride or dilation, "
        "got output_padding=2, stride=2, dilation=1",
    ),
    "transpose: empty result": (
        lambda: convcore.conv_transpose2d(G, W, padding=3),
        ValueError,
        "conv_transpose2d: the result must not be empty, got (0, 1) "
        "from input (4, 5), kernel (3, 3), padding ((3, 3), (3, 3))",
    ),
    "corr2d: rank of x": (
        lambda: convcore.corr2d(X[0, 0, 0], W[0, 0]),
        ValueError,
        "corr2d: `x` must have 2, 3 or 4 dimensions, got shape (7,)",
    ),
    "corr2d: rank of k": (
        lambda: convcore.corr2d(X, W),
        ValueError,
        "corr2d: `k` must have 2 dimensions, (rows, columns), got shape (8, 2, 3, 3)",
    ),
    "corr2d: dtypes": (
        lambda: convcore.corr2d(X, [[1, -1]]),
        TypeError,
        "corr2d: `k` must have the dtype of `x`, got x float32, k int64; convert one with .astype()",
    ),
    "convolve2d: empty": (
        lambda: convcore.convolve2d(X, np.ones((0, 2), np.float32)),
        ValueError,
        "convolve2d: `k` must not be empty, got shape (1, 1, 0, 2)",
    ),
    "plan: op": (
        lambda: convcore.plan("conv3d", X, W),
        ValueError,
        "plan: `op` must be one of conv2d, conv2d_grad_input, conv2d_grad_weight, conv2d_grad_bias, "
        "conv_transpose2d, max_pool2d, max_pool2d_grad, forward, grad_input, grad_weight, grad_bias, max_pool, "
        "max_pool_grad, got 'conv3d'; did you mean 'conv2d'?",
    ),
    "plan: operand missing": (lambda: convcore.plan("forward", X), TypeError, "plan: forward needs `weight`"),
    "plan: too many": (
        lambda: convcore.plan("grad_bias", X, X),
        TypeError,
        "plan: grad_bias takes grad_out by position, got 2 values",
    ),
    "explain: keyword": (
        lambda: convcore.explain("grad_bias", X, strides=2),
        ValueError,
        "explain: `keyword` must be one of grad_out, stride, padding, dilation, groups, boundary, fill_value, layout, "
        "accuracy, tune, algorithm, workspace_limit, got 'strides'; did you mean 'stride'?",
    ),
    "max_pool2d: padding": (
        lambda: convcore.max_pool2d(X, 2, padding=(0, 2)),
        ValueError,
        "max_pool2d: `padding` must be smaller than the kernel, got padding (2, 2), kernel (2, 2): "
        "a window would hold no pixel",
    ),
    "max_pool2d: does not fit": (
        lambda: convcore.max_pool2d(X, (2, 8)),
        ValueError,
        "max_pool2d: the kernel must fit into the padded input, got kernel (2, 8), input (6, 7), padding (0, 0)",
    ),
    "max_pool2d: integers": (
        lambda: convcore.max_pool2d(X.astype(int), 2),
        TypeError,
        "max_pool2d: `x` must be floating, got int64",
    ),
    "max_pool2d_grad: shape": (
        lambda: convcore.max_pool2d_grad(X, X, 2),
        ValueError,
        "max_pool2d_grad: `grad_out` must have the shape of the forward result, (2, 4, 3, 3), got (2, 4, 6, 7)",
    ),
    "max_pool2d_grad: dtype": (
        lambda: convcore.max_pool2d_grad(X, np.ones((2, 4, 3, 3)), 2),
        TypeError,
        "max_pool2d_grad: `grad_out` must have the dtype of `x`, got x float32, grad_out float64; "
        "convert one with .astype()",
    ),
    "plan: pooling with dilation": (
        lambda: convcore.plan("max_pool2d", X, 2, dilation=2),
        ValueError,
        "max_pool2d: pooling has no `dilation`, `groups` or `boundary`",
    ),
    "as_matrix: does not fit": (
        lambda: convcore.as_matrix(W[0, 0], (2, 5)),
        ValueError,
        "as_matrix: the kernel must fit into the padded input, "
        "got kernel (3, 3) with its dilation, padded input (2, 5)",
    ),
    "receptive_field: same with stride": (
        lambda: convcore.receptive_field([{"kernel_size": 3, "stride": 2, "padding": "same"}]),
        ValueError,
        "receptive_field: `padding` 'same' with stride (2, 2) depends on the input; give pixels",
    ),
    "receptive_field: no kernel": (
        lambda: convcore.receptive_field([{"stride": 2}]),
        ValueError,
        "receptive_field: every layer must have a `kernel_size`, got {'stride': 2}",
    ),
    "Conv2D: groups": (
        lambda: convcore.Conv2D(8, 3, groups=3),
        ValueError,
        "Conv2D: `groups` must divide channels, got groups=3, channels=8",
    ),
    "Conv2D: kernel_size": (
        lambda: convcore.Conv2D(8, 0),
        ValueError,
        "Conv2D: `kernel_size` must be at least 1, got 0",
    ),
    "Conv2D: initializer": (
        lambda: convcore.Conv2D(8, 3, in_channels=1, weight_initializer="zero").weight,
        ValueError,
        "Conv2D: `weight_initializer` must be one of zeros, ones, got 'zero'; did you mean 'zeros'?",
    ),
    "Conv2D: shape unknown": (
        lambda: convcore.Conv2D(8, 3).weight,
        RuntimeError,
        "Conv2D: `weight` has no shape before the first call; give in_channels or call the layer",
    ),
    "Conv2D: backward first": (
        lambda: convcore.Conv2D(8, 3).backward(X),
        RuntimeError,
        "Conv2D: backward needs the input of a call, and the layer has not been called",
    ),
    "Conv2D: integers": (
        lambda: convcore.Conv2D(8, 3)(X.astype(np.int64)),
        TypeError,
        "Conv2D: `x` must be floating or complex to learn from, got int64",
    ),
}


@pytest.mark.parametrize("case", BAD_OTHERS)
def test_other_functions(case):
    call, error, message = BAD_OTHERS[case]
    with convcore.use("numpy"), pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_plan_called_with_other_arrays():
    plan = convcore.plan("forward", X, W, groups=2, backend="numpy")
    for arrays, error, message in (
        ((X[:1], W), ValueError, "conv2d: `x` must have shape (2, 4, 6, 7) for this plan, got (1, 4, 6, 7)"),
        ((X, W.astype("f8")), TypeError, "conv2d: `weight` must have dtype float32 for this plan, got float64"),
        ((X, W, BIAS), TypeError, "conv2d: this plan was made without a bias"),
        ((X.tolist(), W), TypeError, "conv2d: `x` must be a numpy.ndarray for this plan, got list"),
    ):
        with pytest.raises(error) as caught:
            plan(*arrays)
        assert str(caught.value) == message


class TestOverflow:
    """Integers never overflow silently."""

    def test_raises_when_the_sum_can_exceed_int64(self):
        x = np.full((1, 1, 3, 3), 2**62, np.int64)
        with pytest.raises(OverflowError) as caught:
            convcore.conv2d(x, np.full((1, 1, 2, 2), 2, np.int8), backend="numpy")
        assert str(caught.value) == (
            "conv2d: int64 could overflow, sums may reach 3.69e+19 with these values; use floating point"
        )

    def test_bias_counts(self):
        x, w = np.full((1, 1, 1, 1), 2**62, np.int64), np.ones((1, 1, 1, 1), np.int64)
        assert convcore.conv2d(x, w, np.array([2**60]), backend="numpy") == 2**62 + 2**60
        with pytest.raises(OverflowError):
            convcore.conv2d(x, w, np.array([2**62]), backend="numpy")

    def test_the_most_negative_value_counts(self):
        x = np.full((1, 1, 1, 1), -(2**63), np.int64)
        with pytest.raises(OverflowError):
            convcore.conv2d(x, -np.ones((1, 1, 1, 1), np.int64), backend="numpy")

    @pytest.mark.parametrize("boundary", ["edge", "wrap", "symmetric", "reflect"])
    def test_pixels_that_stand_in_the_boundary_too_count(self, boundary):
        grad_out, weight = np.full((1, 1, 43, 43), 2**53, np.int64), np.ones((1, 1, 1, 1), np.int64)
        keywords = {"padding": 21, "boundary": boundary, "backend": "numpy"}
        with pytest.raises(OverflowError):
            convcore.conv2d_grad_input(grad_out, weight, (1, 1, 1, 1), **keywords)
        small = convcore.conv2d_grad_input(grad_out // 2**12, weight, (1, 1, 1, 1), **keywords)
        assert small.item() == 43 * 43 * 2**41

    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
    def test_large_values_that_fit_are_exact(self, op):
        big, one = np.full((1, 1, 2, 2), 2**52 + 1, np.int64), np.ones((1, 1, 2, 2), np.int64)
        if op == "forward":
            assert convcore.conv2d(big, one, backend="numpy").item() == 4 * (2**52 + 1)
        elif op == "grad_input":
            grad = convcore.conv2d_grad_input(big[:, :, :1, :1], one, (1, 1, 2, 2), backend="numpy")
            assert (grad == 2**52 + 1).all()
        else:
            grad = convcore.conv2d_grad_weight(big, one, (1, 1, 1, 1), backend="numpy")
            assert grad.item() == 4 * (2**52 + 1)
