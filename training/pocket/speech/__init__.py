"""Synthetic speech for the toy world: voices, phoneme timings, visemes, mouth tracks and audio augmentation.

sentences.py   the texts, in nine languages
voices.py      the voices; which voices and sentences are held out
espeak.py      espeak-ng through its C library
flite.py       flite, whose voices were built from recordings of people
synthesise.py  one utterance from either, at 16 kHz, with phoneme times
phonemes.py    IPA phonemes to visemes
visemes.py     viseme events with times and loudness
mouth.py       the mouth track per frame, from viseme events and loudness
vocoder.py     voice conversion: new pitch, formants and excitation for the same words
augment.py     random audio augmentation of a batch, from the effects in rooms.py and noises.py
clips.py       the corpus file: reading and writing
corpus.py      build the corpus: `python -m training.pocket.speech.corpus`
samples.py     make the samples in data/samples: `python -m training.pocket.speech.samples`
"""
