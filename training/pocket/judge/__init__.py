"""The judge: reads drawn avatars off their frames alone, to measure what the toy models make; never part of making.

network.py    the network: tracks, landmarks and regions of one frame
pictures.py   what it learns from
train.py      `python -m training.pocket.judge.train`
reading.py    frames in, tracks, landmarks and regions out
actions.py    which named movements happened in a clip
measure.py    the mouth's opening in a clip, as JSON: `python -m training.pocket.judge.measure`
evaluate.py   how good an instrument it is: `python -m training.pocket.judge.evaluate`
"""
