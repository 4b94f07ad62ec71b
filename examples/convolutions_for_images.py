"""The lesson "convolutions for images", to run and to change.

    python examples/convolutions_for_images.py

It needs nothing but convcore and NumPy.
"""

import numpy as np

import convcore


def cross_correlation() -> None:
    """Slide a kernel over an image; at each place, multiply and add."""
    print("1. Cross-correlation")
    image = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]], np.float32)
    kernel = np.array([[0, 1], [2, 3]], np.float32)
    print(convcore.corr2d(image, kernel))
    print("top left by hand:", 0 * 0 + 1 * 1 + 3 * 2 + 4 * 3)
    print("a 3 by 3 image has room for 2 by 2 places of a 2 by 2 kernel:", convcore.corr2d(image, kernel).shape)


def layer() -> None:
    """Hold the weight and the bias in a layer, which adds the bias to every pixel."""
    print("\n2. A layer")
    conv = convcore.Conv2D(channels=1, kernel_size=2, weight_initializer=1.0, bias_initializer=0.5)
    image = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)  # batch, channel, height, width
    print(conv(image)[0, 0])


def edges() -> tuple[np.ndarray, np.ndarray]:
    """Find where neighbouring pixels differ, by the kernel [1, -1]."""
    print("\n3. Edges")
    image = np.ones((6, 8), np.float32)
    image[:, 2:6] = 0
    kernel = np.array([[1, -1]], np.float32)
    found = convcore.corr2d(image, kernel)
    print("one row of the image:", image[0])
    print("one row of its edges:", found[0])  # 1: from white to black, -1: from black to white
    print("the turned image has edges that [1, -1] cannot see:", np.abs(convcore.corr2d(image.T, kernel)).max())
    return image, found


def learning(image: np.ndarray, wanted: np.ndarray) -> None:
    """Find the kernel from an image and its edges, by gradient descent on the summed squared error."""
    print("\n4. Learning the kernel")
    conv = convcore.Conv2D(channels=1, kernel_size=(1, 2), use_bias=False)
    conv.initialize(seed=1)
    x, y = image[None, None], wanted[None, None]
    for step in range(1, 11):
        error = conv(x) - y
        conv.zero_grad()
        conv.backward(2 * error)  # the derivative of error**2
        conv.weight.data()[:] -= 0.03 * conv.weight.grad()
        if step % 2 == 0:
            print(f"step {step:2d}, loss {np.sum(error**2):.3f}")
    print("learned:", conv.weight.data().ravel().round(2))


def correlation_and_convolution() -> None:
    """Compare with convolution, which turns the kernel by 180 degrees first."""
    print("\n5. Correlation and convolution")
    rng = np.random.default_rng(0)
    image, kernel = rng.normal(size=(5, 5)), rng.normal(size=(3, 3))
    turned = kernel[::-1, ::-1]
    same = np.allclose(convcore.convolve2d(image, kernel), convcore.corr2d(image, turned))
    print("convolution is correlation with the kernel turned:", same)
    print("a learned kernel does not mind: learning by convolution finds the same numbers, turned")


def feature_maps() -> None:
    """See how many pixels of the input one element of a deep feature map depends on."""
    print("\n6. Feature maps and receptive fields")
    for depth in (1, 2, 3):
        height, width = convcore.receptive_field([3] * depth).size
        print(f"{depth} layers of 3 by 3: each element sees {height} by {width} pixels")
    field = convcore.receptive_field([{"kernel_size": 7, "stride": 2, "padding": 3}, {"kernel_size": 3, "padding": 1}])
    print(f"7 by 7 with stride 2, then 3 by 3: {field.size}, neighbours {field.stride} pixels apart")


def matrix() -> None:
    """Write correlation as a matrix, whose transpose is the gradient."""
    print("\n7. Correlation is linear")
    rng = np.random.default_rng(0)
    image, kernel = rng.normal(size=(4, 5)), rng.normal(size=(2, 3))
    a = convcore.as_matrix(kernel, image.shape)
    y = convcore.corr2d(image, kernel)
    print("as a matrix:", a.shape, np.allclose(a @ image.ravel(), y.ravel()))
    back = convcore.conv2d_grad_input(y[None, None], kernel[None, None], (1, 1, *image.shape))
    print("its transpose is the gradient:", np.allclose(a.T @ y.ravel(), back.ravel()))


if __name__ == "__main__":
    cross_correlation()
    layer()
    learning(*edges())
    correlation_and_convolution()
    feature_maps()
    matrix()
