"""Run the command line as `python -m v2ir.cli`."""

from v2ir.cli import main

main()
