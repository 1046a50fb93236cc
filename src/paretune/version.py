"""The version of this paretune."""

__version__ = "0.1.0"
