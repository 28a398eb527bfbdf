"""A run is a folder: the request, a status, a log, the files made, and a manifest to make them again."""
