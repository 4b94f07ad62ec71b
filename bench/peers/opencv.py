"""OpenCV's ``filter2D``: one image, one kernel."""

from __future__ import annotations

from convcore_bench.case import Case
from convcore_bench.peers import Peer, Work, not_importable, single_image


def peers() -> list[Peer]:
    """Return the one way."""
    return [OpenCVPeer()]


class OpenCVPeer(Peer):
    """OpenCV; kernels of 11 by 11 and more are applied by its DFT."""

    name = "opencv"

    def missing(self) -> str:
        return not_importable("cv2", install="pip install opencv-python-headless")

    def versions(self) -> dict[str, str]:
        import cv2

        return {"opencv": cv2.__version__}

    def prepare_one(self, case: Case) -> Work:
        import cv2

        image, kernel = single_image(case)
        cv2.setNumThreads(case.threads)
        return Work(
            run=lambda: cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_CONSTANT),
            to_numpy=lambda answer: answer[None, None],
            algorithm="filter2D",
            normwise=True,
        )
