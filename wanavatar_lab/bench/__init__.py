"""Benches of the published models at true size and with random weights: nothing is downloaded.

    python -m wanavatar_lab.bench --height 480 --width 832 --frames 80        the S2V network alone
    python -m wanavatar_lab.bench --adapter-rank 128                          the same, without and with a LoRA
    python -m wanavatar_lab.bench parts speech-to-video --parts vae.decode    parts of a stage, beside their floor
    python -m wanavatar_lab.bench stages [--memory-gb 24] [--json out.json]   all four stages, as a worker runs them
    python -m wanavatar_lab.bench offload --memory-gb 24                      our offloading beside diffusers' own
    python -m wanavatar_lab.bench files --folder /tmp/weights                 reading a stage's files from a disk
    python -m wanavatar_lab.bench service --pollers 200 --uploaders 20         answers of the REST service
    python -m wanavatar_lab.bench ranks --gpus 2                              a step that several GPUs share
    python -m wanavatar_lab.bench rounding --float32                          how much such a step differs
    python -m wanavatar_lab.bench cpu --demo                                  imports and the demo, on a CPU
    python -m wanavatar_lab.bench table docs/measured/*.json                  the figures as tables

`wanavatar-lab bench` is the same program. `--size tiny` runs each of them on any machine in seconds. Progress goes to
standard error, figures to standard output.

network         the S2V network alone
parts           each part of a stage: time, peak of memory, kinds of kernels
floor           the least time that a part can take
peers           the networks of others, beside ours
stages          whole stages, with their loading and offloading
offload         the ways to offload, this package's and those of diffusers
ranks           a step by one GPU, and by several that share it
rounding        how much such a step differs, on one GPU
cases           the runs of these two benches, and their requests
files           reading from a disk
service         the REST service with many clients
cpu             what a user of a CPU waits for
table           figures as Markdown, and as lines of progress
targets         what figures are to be, and what they are
random_models   pipelines of random weights
watch           time and memory of each call of a network
"""

import os

from wanavatar_lab.worker.local_engine import SLEEPING_THREADS

# before torch is imported, which reads them once: a CPU computes as in a worker
for _name, _value in SLEEPING_THREADS.items():
    os.environ.setdefault(_name, _value)
