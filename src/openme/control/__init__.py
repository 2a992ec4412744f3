"""What commands ask the running server: requests and replies as types, and the socket that carries them."""
