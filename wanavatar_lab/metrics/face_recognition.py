"""Embeddings of faces, whose cosine says how alike two faces are, whatever their pose and light: SFace, by OpenCV.

Zhong et al., "SFace: sigmoid-constrained hypersphere loss for robust face recognition", 2021, arXiv:2205.12010. Two
pictures of one person have a cosine of at least 0.363, by the threshold that OpenCV gives for these weights.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.metrics.landmarks import Face
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights import find_weights
from wanavatar_lab.weights.table import download_command

WEIGHTS = "face-recognition"


class FaceRecognizer:
    """Embeds faces whose `Face.marks` are known.

    Args:
        model: the ONNX file; None takes the one in the weights folder.

    Raises:
        WeightsError: the file is missing or damaged; the text has the command that downloads it.
    """

    def __init__(self, model: Path | None = None) -> None:
        entry = find_weights(WEIGHTS)
        path = model or entry.path(read_settings().weights_dir)
        if not path.is_file():
            raise WeightsError(f"Faces are compared with {entry.place}, which is missing. {download_command(entry)}")
        try:
            self._network = cv2.FaceRecognizerSF.create(str(path), "")
        except cv2.error as error:
            why = " ".join(str(error).split())  # it has line breaks
            raise WeightsError(f"OpenCV cannot use {path} ({why}). {download_command(entry)}") from error

    def embed(self, frame: NDArray[np.uint8], face: Face) -> NDArray[np.float64] | None:
        """The embedding of a face in a frame, uint8 [H, W, 3], of length 1; None without its marks."""
        if face.marks is None:
            return None
        # OpenCV wants a detection of its own: a box, the five marks, and a score, of which it reads the marks
        row = np.concatenate([[0, 0, 1, 1], face.marks.ravel(), [1]]).astype(np.float32)[None]
        crop = self._network.alignCrop(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), row)
        feature = np.asarray(self._network.feature(crop), dtype=np.float64).ravel()
        return feature / max(float(np.linalg.norm(feature)), 1e-12)
