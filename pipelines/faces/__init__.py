"""Faces in frames: detection, alignment, tracks."""
