"""What notebooks 10 to 13 are made of: from videos of a person to a LoRA that is tried out.

person.py      where everything of one person lies, and what each profile begins with
commands.py    programs that a cell waits for
preparing.py   videos become clips, and clips become samples
report.py      the report of the preparation as a table, and its contact sheets
card.py        a run of the training: started, watched, stopped, found again; run_card.py its state, time and log
use.py         what a run takes of the machine
board.py       TensorBoard
results.py     what a run came to, read from its folder
curves.py      plots of a run's numbers; masks.py of the masks; plots.py shows them
clips.py       sample clips side by side
offer.py       the LoRA of a run put into the list of LoRAs
tryout.py      a clip that is spoken with it, and one without
head.py        the title of a panel, and the switch for its language

Everything is read from files, so a notebook that is opened later, in another kernel, shows the same.
"""
