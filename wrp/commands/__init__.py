"""The commands that are not LightningCLI's: each adds itself to the parser and knows what to run.

Nothing heavy is imported before a command runs, so that ``wrp --help`` answers at once.
"""
