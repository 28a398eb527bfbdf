"""How well the toy S2V talks: clips of held-out avatars and voices, measured from their frames alone.

spoken.py     what is said: held-out speech, clean and as rooms, recorders and pace change it
sources.py    who makes the clips: the pipeline, or the drawing itself to try the measuring
figures.py    what is measured of a clip, what of many, and what is asked of it
evaluate.py   `python -m training.pocket.talking.evaluate`
"""
