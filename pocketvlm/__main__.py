"""Run the command line as ``python -m pocketvlm``."""

from pocketvlm.cli import main

main()
