"""Tables of runs: how they are read, and which of their rows a fit may use."""
