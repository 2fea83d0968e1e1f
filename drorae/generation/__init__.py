"""Generating latents: the transformer, the flow it learns, guidance, sampling. Pure parts; nothing here trains."""
