"""Where it runs: the Ray session, the trials, the device, and the driver over the stages."""
