"""The mouth judge: networks that read pose, mouth and regions from frames of drawn avatars, to evaluate the toy models.

No model is trained against it.

network.py    the network: tracks, landmarks and regions of one frame
pictures.py   training data
train.py      `python -m training.pocket.judge.train`
reading.py    inference: tracks, landmarks and regions of frames
actions.py    detect the named actions of a clip
measure.py    the mouth's opening in a clip, as JSON: `python -m training.pocket.judge.measure`
evaluate.py   the judge's own accuracy: `python -m training.pocket.judge.evaluate`
"""
