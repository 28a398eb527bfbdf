"""From videos of one person to clips that training reads, with masks of the face and the lips and a report.

    python -m training.prepare --videos FOLDER --out DATA

    DATA/processed/video_000/     one of the clips; see layout.py
    DATA/processed/video_path.txt the clips to train on, a path a line; held_out_path.txt has the others
    DATA/validation/              reference.png and audio.wav of a clip that is held out
    DATA/report.json              what was found, and what is wrong; contact_sheet.png shows it

prepare.py     all of it: what is there already is kept
plan.py        which clips there are to be
cuts.py        where a long recording is cut: at silences, into clips of 3 to 6 s
clips.py       one clip: frames at 16 fps in step with its sound
landmarks.py   where the face and the lips are, from one of several sources; mediapipe_landmarks.py is the usual one
draw_masks.py  outlines become masks; training/data/masks.py brings those to the latents
measures.py    what is measured of a clip, and what is wrong with it
duplicates.py  clips that show and say the same
sheets.py      contact sheets
report.py      all clips in one table
layout.py      the folder of a clip, read wherever it was made; training/data/whole_folder.py writes it whole
drawn.py       sample videos of a drawn person, for who has none of their own; drawn_speech.py is what they say
"""
