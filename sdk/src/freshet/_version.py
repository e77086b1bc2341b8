"""The SDK's version and the name it is installed by; the package `freshet` on PyPI is another project's."""

__version__ = "0.1.0"
DISTRIBUTION = "freshet-sdk"
