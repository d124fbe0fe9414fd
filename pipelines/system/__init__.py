"""The machine underneath: processes, memory, files, images on disk, devices, progress."""
