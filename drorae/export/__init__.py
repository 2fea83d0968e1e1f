"""Handing a trained tokenizer on: folders and hubs to load it from."""
