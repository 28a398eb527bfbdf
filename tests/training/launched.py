"""`training.train` on the toy network, as a program that a launcher can start."""

import sys

import torch

from tests.s2v.toy import toy_model
from training import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    train.network_of = lambda profile: toy_model()  # type: ignore[attr-defined]
    train.main(sys.argv[1:])
