"""`python -m openme`: the same as `openme`."""

from openme.cli.entry import run

if __name__ == "__main__":
    run()
