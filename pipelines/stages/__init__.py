"""The stages: each reads a manifest and writes one. They never import each other."""
