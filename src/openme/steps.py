"""Long work between which others have their turn."""

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work in steps of about a millisecond, between which others may have their turn; its outcome is what it returns."""
