"""Images, their crops, and the encoder's features of them."""
