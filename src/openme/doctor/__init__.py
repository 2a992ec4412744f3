"""`openme doctor`: looks for the cause on either side. Each look is a small function; the tables are lists of them.

What both sides have in common is here; `client` runs on every system and imports nothing of a server's, nor `server`
anything of a client's.
"""
