"""Other ways to scale a network, each asked the same question: the largest within the limits."""
