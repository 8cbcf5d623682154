"""Trained weights that come with the package: `sd.pretrained("digits-vp")`."""
