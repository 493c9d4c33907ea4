"""The version of the package, which all layers may read."""

from typing import Final

VERSION: Final = "0.1.0"
