"""The stages of a search, each a function that runs only if the run store lacks its output."""
