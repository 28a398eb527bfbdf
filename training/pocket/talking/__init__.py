"""Evaluation of the toy S2V: lip sync, identity and continuity of talking clips, measured from their frames alone.

spoken.py     test speech: held-out voices, clean, degraded and at other paces
sources.py    where clips come from: the pipeline, or the renderer, to validate the measurement itself
figures.py    figures of a clip, their summary, and the required limits
evaluate.py   `python -m training.pocket.talking.evaluate`
voices.py     lips against the voices of text_to_speech: `python -m training.pocket.talking.voices`
"""
