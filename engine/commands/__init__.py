"""The commands of ``hacscale``: each module adds its own to the parser."""
