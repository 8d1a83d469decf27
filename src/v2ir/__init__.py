"""v2ir: visible and text to infrared image translation."""

__version__ = "0.1.0"
