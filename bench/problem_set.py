"""What is measured: layers of published networks and single images, from ``problems/*.json``, or on one line.

A set is one file: a list of records, each either with every number of a layer by name, as in ``networks.json``, or with
``id``, ``source`` and ``problem``, a line that :func:`parse` reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "problems"


@dataclass(frozen=True)
class Layer:
    """One layer: its geometry, how often its network has it, and where that is written down."""

    id: str
    input_shape: tuple[int, int, int, int]
    weight_shape: tuple[int, int, int, int]
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int
    multiplicity: int = 1
    source: str = ""

    @property
    def geometry(self) -> dict[str, Any]:
        """The keywords of ``convcore.conv2d``."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for layers that are the same work."""
        return self.input_shape, self.weight_shape, self.stride, self.padding, self.dilation, self.groups


def load(name: str = "networks") -> dict[str, Layer]:
    """Return the layers of ``problems/<name>.json`` by their ids."""
    return read(FOLDER / f"{name}.json")


def read(path: Path) -> dict[str, Layer]:
    """Return the layers of a set's file by their ids."""
    return {record["id"]: _layer(record) for record in json.loads(path.read_text())}


def choose(text: str) -> list[Layer]:
    """Return the layers that a list stands for, each geometry once.

    Parameters
    ----------
    text : str
        Separated by commas: a set ("networks"), a file of one ("mine.json"), a network or the beginning of an id
        ("resnet50", "resnet50/layer1"), or a problem ("n1 c64 h56 w56 k64 r3 s3 p1").

    Raises
    ------
    ValueError
        For a word that is none of these.
    """
    found = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        for layer in _named(word):
            found.setdefault(layer.key, layer)
    return list(found.values())


def sets() -> list[str]:
    """Return the names of the sets in ``problems/``."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def _named(word: str) -> Iterable[Layer]:
    if word in sets():
        return load(word).values()
    if word.endswith(".json"):
        return read(Path(word)).values()
    if re.match(r"[nchw]\d", word):
        return [parse(word)]
    layers = {name: layer for each in sets() for name, layer in load(each).items()}
    chosen = [layer for name, layer in layers.items() if name == word or name.startswith(word.rstrip("/") + "/")]
    chosen = chosen or [layer for name, layer in layers.items() if name.startswith(word)]
    if not chosen:
        networks = sorted({name.partition("/")[0] for name in layers})
        raise ValueError(
            f"--problems: {word!r} is no set ({', '.join(sets())}), no network ({', '.join(networks)}), "
            'no .json file and no problem like "n1 c64 h56 w56 k64 r3 s3 p1"'
        )
    return chosen


_NUMBERS = {"n": 1, "c": 1, "h": None, "w": None, "k": 1, "r": None, "s": None, "groups": 1}
_PAIRS = {"p": (0, 0), "stride": (1, 1), "dilation": (1, 1)}


def parse(text: str) -> Layer:
    """Read a problem: "n1 c64 h56 w56 k64 r3 s3 p1", and "stride2", "dilation2", "groups32"; "p0x3" is 0 by 3 pixels.

    n, c, k, p, stride, dilation and groups may be left out; w and s are then h and r.
    """
    numbers, pairs = dict(_NUMBERS), dict(_PAIRS)
    for word in text.split():
        match = re.fullmatch(r"([a-z]+)(\d+)(?:x(\d+))?", word)
        name, first, second = match.groups() if match else ("", "0", None)
        if name in pairs:
            pairs[name] = int(first), int(second or first)
        elif name in numbers and second is None:
            numbers[name] = int(first)
        else:
            raise ValueError(f"problem {text!r}: {word!r} is none of {', '.join([*numbers, *pairs])} with a number")
    n, c, h, w, k, r, s, groups = numbers.values()
    if h is None or r is None:
        raise ValueError(f"problem {text!r} needs h and r")
    p, stride, dilation = pairs.values()
    if c % groups or k % groups:
        raise ValueError(f"problem {text!r}: groups must divide c and k")
    return Layer(
        id=" ".join(text.split()),
        input_shape=(n, c, h, w or h),
        weight_shape=(k, c // groups, r, s or r),
        stride=stride,
        padding=((p[0], p[0]), (p[1], p[1])),
        dilation=dilation,
        groups=groups,
    )


def _layer(record: dict[str, Any]) -> Layer:
    if "problem" in record:
        return replace(parse(record["problem"]), id=record["id"], source=record["source"])
    top_bottom, left_right = record["padding"]
    return Layer(
        id=record["id"],
        input_shape=(record["n"], record["c_in"], record["h"], record["w"]),
        weight_shape=(record["c_out"], record["c_in"] // record["groups"], record["kh"], record["kw"]),
        stride=tuple(record["stride"]),
        padding=(tuple(top_bottom), tuple(left_right)),
        dilation=tuple(record["dilation"]),
        groups=record["groups"],
        multiplicity=record["multiplicity"],
        source=record["source"],
    )
