"""The client: sends knocks and tells whether the door opened. Imports nothing that only Linux has."""
