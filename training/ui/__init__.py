"""The widgets of notebooks 10 to 13: from videos of a person to a LoRA that is tried out.

person.py         the folder of one person, and the defaults of each profile
run_module.py     programs that run in processes while a cell waits
preparing.py      videos become clips, and clips become samples
report.py         the report of the preparation, contact sheets, and masks
training_card.py  a training run: start, watch, stop
machine_use.py    GPU, CPU and memory use of a run
tensorboard.py    TensorBoard
results.py        the results of a run
curves.py         plots of a run's numbers
explained.py      what is trained, and by which loss, in the open
loss_weights.py   how much each place of a picture counts in the loss
clips.py          sample clips side by side
publish.py        the LoRA of a run, added to the LoRA list
tryout.py         one clip with the LoRA, and one without
training_panel.py the frame of a panel: title, language

Everything is read from files, so a notebook that is opened later, in another kernel, shows the same. Nothing here
imports torch: what computes runs in processes of its own, and a kernel starts within a second or two.
"""
