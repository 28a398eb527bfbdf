"""What executes runs: the queue, its supervisor, the worker process, and the models that it keeps loaded."""
