"""What harmonic features are good for, measured on recordings that anybody can get. Run from the project's folder."""
