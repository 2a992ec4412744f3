"""How many ports there are: apart from `ports`, for a client that has no more to do with them."""

MAX_PORT = 65535
