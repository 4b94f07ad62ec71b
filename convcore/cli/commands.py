"""The subcommands of ``convcore``: each reads its arguments, calls the library, and prints."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import convcore
from convcore.cli import conformance, images, learn, plugins, train
from convcore.cli.doctor import STATE_STYLES, doctor
from convcore.problem import BOUNDARIES
from convcore.registry import registry
from convcore.testing import verdicts

app = typer.Typer(
    help="Two-dimensional cross-correlation on interchangeable engines.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

BackendOption = Annotated[str | None, typer.Option(help='"cpu", "opencl:1", a list such as "cpu,numpy", or "auto".')]
KernelOption = Annotated[
    str, typer.Option(help=", ".join(images.KERNELS) + '; a .npy file; or rows: "1,-1" or "1,2;3,4".')
]
BoundaryOption = Annotated[str, typer.Option(help=", ".join(BOUNDARIES))]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the picture is written.")] = Path("convcore-demo.png"),
) -> None:
    """Find the edges of a photograph with every backend, then learn the edge kernel."""
    from convcore.cli.demo import run

    for module in ("matplotlib", "skimage"):
        importlib.import_module(module)
    run(console, output)


@app.command()
def backends(as_json: JsonOption = False) -> None:
    """List the installed backends: state, devices, dtypes, the latest verdict of ``test``, and why one is not ready."""
    found = convcore.backends()
    latest = {info.name: _verdict(info.name) for info in found}
    if as_json:
        listed = [asdict(info) | {"conformance": latest[info.name]} for info in found]
        print(json.dumps(listed, indent=2, default=str))
        return
    table = Table("name", "version", "state", "devices", "dtypes", "conformance", "why not")
    for info in found:
        devices = "\n".join(f"{device.index}: {device.name}" for device in info.devices)
        state = f"[{STATE_STYLES[info.state]}]{info.state}[/]"
        name, verdict = escape(info.name), escape(latest[info.name])
        table.add_row(name, info.version, state, escape(devices), _short(info.dtypes), verdict, escape(info.reason))
    console.print(table)


app.command()(doctor)


@app.command("filter")
def filter_image(
    source: Annotated[Path, typer.Argument(metavar="IN", help="An image, grey or colour, 8 or 16 bits a channel.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.png", help="A PNG of the same depth.")],
    kernel: KernelOption,
    pixels: Annotated[
        str,
        typer.Option(
            help="How results become pixels. clip: round, and cut to the range; absolute: the magnitude, then clip; "
            "offset: add half of the range, then clip; stretch: smallest to 0, largest to the top."
        ),
    ] = "clip",
    padding: Annotated[str, typer.Option(help="same (keeps the size), valid, full, same_lower, or pixels.")] = "same",
    boundary: BoundaryOption = "constant",
    fill_value: Annotated[float, typer.Option(help="The constant of --boundary constant, in pixel values.")] = 0.0,
    backend: BackendOption = None,
) -> None:
    """Cross-correlate an image file with a kernel, each colour by itself; transparency is kept as it is."""
    if pixels not in images.PIXELS:
        raise ValueError(f"--pixels must be one of {', '.join(images.PIXELS)}, got {pixels!r}")
    weight = images.parse_kernel(kernel)
    image = images.read_image(source)
    planes = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    colours = planes[:-1] if len(planes) in (2, 4) else planes
    values = convcore.corr2d(
        colours.astype(np.float32),
        weight,
        padding=_padding(padding),
        boundary=boundary,
        fill_value=fill_value,
        backend=backend,
    )
    if len(colours) < len(planes) and values.shape[1:] != image.shape[:2]:
        raise ValueError(f"an image with transparency must keep its size: use --padding same, got {padding!r}")
    result, cut = images.to_pixels(values, image.dtype, pixels)
    result = np.concatenate([result, planes[len(colours) :]]) if len(colours) < len(planes) else result
    images.write_image(target, result[0] if image.ndim == 2 else np.moveaxis(result, 0, -1))
    console.print(
        f"{target}: results from {values.min():g} to {values.max():g}, --pixels {pixels} cut {cut:.1%} of them",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def explain(
    op: Annotated[str, typer.Argument(help="forward, grad_input, grad_weight or grad_bias.")],
    input_shape: Annotated[str, typer.Option("--input", metavar="N,C,H,W", help="Shape of the input.")],
    weight_shape: Annotated[str, typer.Option("--weight", metavar="K,C/G,R,S", help="Shape of the weight.")],
    stride: Annotated[str, typer.Option(help="Pixels: one number, or vertical,horizontal.")] = "1",
    padding: Annotated[str, typer.Option(help='Pixels: 1, 2 or 4 numbers (top,bottom,left,right), or "same", …')] = "0",
    dilation: Annotated[str, typer.Option(help="1 is dense; one number, or vertical,horizontal.")] = "1",
    groups: Annotated[int, typer.Option(help="Groups of channels.")] = 1,
    boundary: BoundaryOption = "constant",
    layout: Annotated[str, typer.Option(help="NCHW or NHWC.")] = "NCHW",
    dtype: Annotated[str, typer.Option(help="NumPy's name of the operands' dtype.")] = "float32",
    accuracy: Annotated[str | None, typer.Option(help="strict, standard or fast.")] = None,
    tune: Annotated[str | None, typer.Option(help="off, heuristic, cached or measure.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="An algorithm that must run.")] = None,
    backend: BackendOption = None,
    run: Annotated[bool, typer.Option("--run", help="Compute random numbers, and say what each step takes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say which backend and algorithm would run a problem, and why; nothing is computed but with --run."""
    x, weight = _integers("--input", input_shape), _integers("--weight", weight_shape)
    geometry: dict[str, Any] = {
        "stride": _pair("--stride", stride),
        "padding": _padding(padding),
        "dilation": _pair("--dilation", dilation),
        "groups": groups,
        "layout": layout,
    }
    y = convcore.output_shape(x, weight, **geometry)
    operands = {
        "forward": (x, weight),
        "grad_input": (y, weight, x),
        "grad_weight": (x, y, weight),
        "grad_bias": (y,),
    }
    if op not in operands:
        raise ValueError(f"OP must be one of {', '.join(operands)}, got {op!r}")
    keywords = {"layout": layout} if op == "grad_bias" else geometry | {"boundary": boundary, "accuracy": accuracy}
    explanation = convcore.explain(
        op, *operands[op], dtype=_dtype(dtype), backend=backend, run=run, algorithm=algorithm, tune=tune, **keywords
    )
    print(json.dumps(explanation.to_dict(), indent=2) if as_json else explanation)


app.command("test", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(conformance.run_kit)
app.command()(train.train)
app.command()(learn.learn)


def _verdict(name: str) -> str:
    """Return what `convcore test` has last said of a backend."""
    spec = registry().specs.get(name)
    return verdicts.summary(name, spec.factory) if spec else ""


plugins.add_commands(app)


def _short(dtypes: tuple[str, ...]) -> str:
    """Write float32, float64, int8 as "float 32 64, int 8"."""
    sizes: dict[str, list[str]] = {}
    for dtype in dtypes:
        kind, bits = re.fullmatch(r"(\D+)(\d*)", dtype).groups()  # type: ignore[union-attr]  # every name matches
        sizes.setdefault(kind, []).append(bits)
    return ", ".join(" ".join([kind, *bits]).strip() for kind, bits in sizes.items())


def _integers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"{option} must be integers separated by commas, got {text!r}") from None


def _pair(option: str, text: str) -> Any:
    numbers = _integers(option, text)
    return numbers[0] if len(numbers) == 1 else numbers


def _padding(text: str) -> Any:
    if text.replace("_", "").isalpha():
        return text
    numbers = _pair("--padding", text)
    return (numbers[:2], numbers[2:]) if isinstance(numbers, tuple) and len(numbers) == 4 else numbers


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError:
        raise TypeError(f"--dtype must be the name of a NumPy dtype, got {name!r}") from None
