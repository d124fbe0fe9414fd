"""Data sets as they are downloaded: one module each, from a folder to a list of labelled videos."""
