"""One module per command: parse, build the config, call one public function, print."""
