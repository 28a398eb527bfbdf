"""The voices of espeak-ng, for any CPU: formant synthesis, without a model.

The table `voices.json` in the profile's folder says which of its voices is which speaker of a request.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanavatar_lab.errors import LabError, WeightsError
from wanavatar_lab.requests import TextToSpeech
from wanavatar_lab.stages.context import StageContext

TABLE = "voices.json"
CHECK_EVERY = 0.1  # seconds between looks for a cancellation
_PROCESS = Path(__file__).with_name("espeak_process.py")


class Espeak:
    """The speakers of a table.

    Args:
        folder: that has the table.

    Raises:
        LabError: espeak-ng is not installed.
        WeightsError: the table cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.fingerprint: dict[str, str] = {}  # there are no weights
        if importlib.util.find_spec("espeakng_loader") is None:
            raise LabError(
                "The voices of the profile pocket need espeak-ng, which is not installed. Install it: "
                ".venv/bin/uv pip install espeakng-loader"
            )
        try:
            table = json.loads((folder / TABLE).read_text(encoding="utf-8"))
            self._voices, self._languages = dict(table["voices"]), dict(table["languages"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{folder / TABLE} is no table of voices ({error}).") from error

    def speak(self, request: TextToSpeech, context: StageContext) -> tuple[NDArray[np.float32], int, dict[str, Any]]:
        """Samples [T], their rate in Hz, and facts for the manifest.

        Raises:
            LabError: espeak-ng cannot be loaded, or has no sound for the text.
            Cancelled: the run was cancelled.
        """
        speaker, language = self._voices[request.voice], self._languages[request.spoken_language()]
        voice = f"{language['name']}+{speaker['variant']}"
        rate = round(speaker["words_per_minute"] * language["pace"] * request.speaking_rate)
        text = request.text.replace("\0", " ")  # at which the library would end
        asked = {"text": text, "voice": voice, "rate": rate, "pitch": speaker["pitch"], "seed": context.seed}
        with subprocess.Popen(
            [sys.executable, str(_PROCESS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            data: bytes | None = json.dumps(asked).encode()
            while True:
                try:
                    answer, complaint = child.communicate(data, timeout=CHECK_EVERY)
                    break
                except subprocess.TimeoutExpired:
                    data = None  # which has been sent
                    try:
                        context.check()
                    except BaseException:
                        child.kill()
                        raise
        if child.returncode:
            (*_, reason) = complaint.decode(errors="replace").strip().splitlines() or ["it gave no reason"]
            raise LabError(f"espeak-ng could not speak: {reason.partition(': ')[2] or reason}")
        head, _, samples = answer.partition(b"\n")
        facts = json.loads(head)
        spoken = (np.frombuffer(samples, np.int16) / 32768).astype(np.float32)
        return spoken, facts["rate"], {"engine": f"espeak-ng {facts['version']}", "engine_voice": voice}
