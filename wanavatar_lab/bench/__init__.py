"""What this machine's GPU makes of the published models, at true size and with random weights: nothing is downloaded.

    python -m wanavatar_lab.bench --height 480 --width 832 --frames 80        the S2V network alone
    python -m wanavatar_lab.bench --adapter-rank 128                          the same, with and without a LoRA
    python -m wanavatar_lab.bench stages [--memory-gb 24] [--json out.json]   all four stages, as a worker runs them
    python -m wanavatar_lab.bench offload --memory-gb 24                      our offloading beside diffusers' own
    python -m wanavatar_lab.bench files --folder /tmp/weights                 reading a stage's files from a disk
    python -m wanavatar_lab.bench table docs/measured/*.json                  the figures as tables

`--size tiny` tries each of them on any machine in seconds.
"""
