"""What `deepfake doctor` looks at: packages, the machine, weights, disk space, and one clip scored."""
