"""`python -m training.launch`."""

from training.launch.launch import main

main()
