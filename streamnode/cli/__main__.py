"""`python -m streamnode.cli`."""

from streamnode.cli import main

main()
