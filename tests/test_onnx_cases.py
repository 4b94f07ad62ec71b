"""ONNX's own cases of Conv, ConvTranspose and ConvInteger, one- and two-dimensional, on every built-in backend.

ONNX runs its cases through a runner that a backend passes by raising "unsupported"; here every one must be computed.
"""

import importlib

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case import node as node_cases
from onnx.backend.test.loader import load_model_tests

import convcore

OPERATORS = ("Conv", "ConvTranspose", "ConvInteger")


def collect():
    """Yield (name, node, inputs, outputs) of each case that is one convolution over one or two axes."""
    for operator in OPERATORS:
        importlib.import_module(f"{node_cases.__name__}.{operator.lower()}")
    for case in node_cases._NodeTestCases:
        yield case.name, case.model.graph.node, *case.data_sets[0]
    for kind in ("pytorch-converted", "pytorch-operator"):
        for case in sorted(load_model_tests(kind=kind), key=lambda case: case.name):
            if "conv" in case.name.lower():
                yield case.name, *load(case.model_dir)


def load(folder):
    """Read a case that ONNX keeps on disk."""
    graph = onnx.load(f"{folder}/model.onnx").graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    free = [value.name for value in graph.input if value.name not in constants]
    constants |= {name: read(f"{folder}/test_data_set_0/input_{i}.pb") for i, name in enumerate(free)}
    inputs = [constants[name] for name in graph.node[0].input]
    return graph.node, inputs, [read(f"{folder}/test_data_set_0/output_0.pb")]


def read(path):
    with open(path, "rb") as file:
        return numpy_helper.to_array(onnx.TensorProto.FromString(file.read()))


CASES = {
    name: (nodes[0], inputs, outputs)
    for name, nodes, inputs, outputs in collect()
    if len(nodes) == 1 and nodes[0].op_type in OPERATORS and inputs[0].ndim in (3, 4)
}


def geometry(node, ndim):
    """Translate the attributes; an axis of one pixel stands for the missing one of one-dimensional cases."""
    given = attributes(node)
    missing = 4 - ndim
    pads = given.get("pads", [0] * 2 * (ndim - 2))
    begins, ends = [0] * missing + pads[: len(pads) // 2], [0] * missing + pads[len(pads) // 2 :]
    words = {b"SAME_UPPER": "same", b"SAME_LOWER": "same_lower", b"VALID": "valid", b"NOTSET": None}
    return {
        "stride": tuple([1] * missing + given.get("strides", [1] * (ndim - 2))),
        "dilation": tuple([1] * missing + given.get("dilations", [1] * (ndim - 2))),
        "groups": given.get("group", 1),
        "padding": words[given.get("auto_pad", b"NOTSET")] or tuple(zip(begins, ends, strict=True)),
    }


def attributes(node):
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def conv(node, inputs, backend):
    keywords = geometry(node, inputs[0].ndim)
    return convcore.conv2d(*map(spread, inputs), **keywords, backend=backend)


def conv_integer(node, inputs, backend):
    x, weight, *zero_points = (array.astype(np.int16) for array in inputs)
    if zero_points:
        x = x - zero_points[0]
    if len(zero_points) > 1:
        weight = weight - zero_points[1].reshape(-1, 1, 1, 1)
    return conv(node, [x, weight], backend)


def conv_transpose(node, inputs, backend):
    keywords, given = geometry(node, inputs[0].ndim), attributes(node)
    x, weight = spread(inputs[0]), spread(inputs[1])
    extra = [0] * (4 - inputs[0].ndim) + given.get("output_padding", [0] * (inputs[0].ndim - 2))
    if "output_shape" in given:
        # The padding follows from the size asked for; where that is negative, it is output padding.
        whole = [
            (x.shape[2 + a] - 1) * keywords["stride"][a] + keywords["dilation"][a] * (weight.shape[2 + a] - 1) + 1
            for a in (0, 1)
        ]
        totals = [whole[a] + extra[a] - given["output_shape"][a] for a in (0, 1)]
        keywords["padding"] = tuple((t - t // 2, t // 2) for t in (max(total, 0) for total in totals))
        extra = [extra[a] - min(totals[a], 0) for a in (0, 1)]
    return convcore.conv_transpose2d(x, weight, *inputs[2:], **keywords, output_padding=tuple(extra), backend=backend)


def spread(array):
    """Give one-dimensional operands (N, C, W) a height of 1; a bias stays."""
    return array[:, :, np.newaxis] if array.ndim == 3 else array


TRANSLATIONS = {"Conv": conv, "ConvTranspose": conv_transpose, "ConvInteger": conv_integer}


def test_cases_are_found():
    found = [sum(node.op_type == operator for node, _, _ in CASES.values()) for operator in OPERATORS]
    assert all(count >= least for count, least in zip(found, (25, 11, 2), strict=True)), found


@pytest.mark.parametrize("name", CASES)
def test_onnx_case(name, convcore_backend):
    node, inputs, outputs = CASES[name]
    result = TRANSLATIONS[node.op_type](node, inputs, convcore_backend)
    expected = spread(outputs[0])
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-5)  # ONNX's runner allows rtol 1e-3
