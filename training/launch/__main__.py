"""`python -m training.launch`; see `training.launch.launch`."""

from training.launch.launch import main

main()
