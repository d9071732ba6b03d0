"""`python -m hlfeat` is the command."""

from hlfeat.cli.app import main

main()
