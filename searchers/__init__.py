"""What to try next: values of α, and the widths of the networks that are sampled."""
