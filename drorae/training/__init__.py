"""Training one phase: what it trains, its steps, its loop, its checkpoints."""
