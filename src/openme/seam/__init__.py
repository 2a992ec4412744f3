"""What listener and keeper say to each other: the messages, in one table, and the channel that carries them."""
