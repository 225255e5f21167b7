"""Charts: of what a run over a file yielded, of channels that were rebuilt, and what all figures have in common.

matplotlib is imported when the first figure is made, and only its objects are used, none of its state.
"""
