"""The training objective and the networks it looks through."""
