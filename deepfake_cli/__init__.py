"""The command line of `deepfake`: it parses, calls one public function of `pipelines`, and prints."""

__version__ = "0.1.0"
