"""The daemon: the thin shell of sockets, processes and signals around listener and keeper."""
