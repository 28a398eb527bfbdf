"""From videos of one person to training clips with masks of the face and the lips, and a report.

    python -m training.prepare --videos FOLDER --out DATA

    DATA/processed/video_000/     one clip, see clip_folder.py
    DATA/processed/video_path.txt the clips to train on, one path per line; held_out_path.txt lists the others
    DATA/validation/              reference.png and audio.wav of a held-out clip
    DATA/report.json              measures and problems of every clip; contact_sheet.png shows the masks

prepare.py              the whole preparation; complete clips are kept
cuts.py                 cuts recordings at silences, into clips of 3 to 10 s
clips.py                makes one clip: frames at 16 fps in sync with the sound
clip_folder.py          layout and reader of a clip's folder; training/data/whole_folder.py writes it atomically
draw_masks.py           landmarks (`wanavatar_lab.metrics`) become masks; training/data/masks.py downsamples them
measures.py             measures of a clip, and its problems
report.py               all clips together: duplicates, blur, which are held out, and the report
sheets.py               contact sheets

`training.pocket.drawn_person` draws sample videos of a person who does not exist.
"""
