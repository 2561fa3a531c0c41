"""The commands, one module for each; it is loaded when its command is called."""
