"""The version of the SDK, and the name to install it by."""

__version__ = "0.1.0"
DISTRIBUTION = "freshet-sdk"  # not "freshet": on PyPI that is another project
