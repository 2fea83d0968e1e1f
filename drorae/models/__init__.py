"""The networks of a tokenizer: encoder, fusion, decoder, and their weights."""
