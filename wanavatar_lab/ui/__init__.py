"""Widgets for notebooks and for the page, over the requests and the runs. Nothing here imports torch."""
