"""Runs over many servers that survive whatever is killed.

They are in a database, and any number of workers work on them.

Usage: vpsbackups run COMMAND

  vpsbackups run submit nightly --servers-from fleet.txt
  vpsbackups run work --until-done
  vpsbackups run status nightly
"""
