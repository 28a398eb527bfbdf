"""Speech for the toy world: synthetic voices, the mouths that say it, and what rooms and recorders do to it.

sentences.py   what is said, in nine languages
voices.py      who says it; which voices and sentences are held out
espeak.py      espeak-ng through its C library
flite.py       flite, whose voices were made from people's recordings
synthesise.py  one utterance from either, at 16 kHz, with phoneme times
phonemes.py    which viseme each phoneme asks for
visemes.py     viseme events: when the lips do what, and how loud it is
mouth.py       the mouth at every frame, from events and loudness
vocoder.py     another throat for the same words: new pitch, formants and excitation
augment.py     everything that may happen to speech, drawn for a batch; rooms.py and noises.py are what it draws from
clips.py       the corpus as one file: reading and writing it
corpus.py      building it: `python -m training.pocket.speech.corpus`
samples.py     the samples in data/samples: `python -m training.pocket.speech.samples`
"""
