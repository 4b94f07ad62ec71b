"""The convolution layers of published networks, from ``problems/*.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

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
    multiplicity: int
    source: str

    @property
    def geometry(self) -> dict[str, object]:
        """The keywords of ``convcore.conv2d``."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}


def load(name: str = "networks") -> dict[str, Layer]:
    """Return the layers of ``problems/<name>.json`` by their ids, batch size 1."""
    records = json.loads((FOLDER / f"{name}.json").read_text())
    return {record["id"]: _layer(record) for record in records}


def _layer(record: dict) -> Layer:
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
