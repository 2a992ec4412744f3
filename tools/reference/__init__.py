"""What is made from the commands and the config's keys for others to read: completions of shells, man pages.

`make reference` writes them; tests/cli/test_reference.py holds that they are up to date.
"""
