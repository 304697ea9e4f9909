"""``python -m spikegrad``: the command line where its script is not on the path."""

from spikegrad.cli import main

main()
