"""`python -m deepfake_cli`."""

from deepfake_cli.app import app

if __name__ == "__main__":
    app(prog_name="deepfake")
