"""What runs on a worker: data, the training loop, and its Ray Tune and Ray Train forms."""
