"""Forms of a law, their fits, and the intervals of what they say."""
