"""Adapters to other projects, one file each; each needs the project it is named after."""
