"""One trial: what it shares with others, how it runs, its result."""
