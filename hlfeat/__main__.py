"""`python -m hlfeat` is the command."""

from hlfeat.cli import main

main()
