"""Looking into a trained tokenizer: its latents, its router, how well a diffusion model learns them."""
