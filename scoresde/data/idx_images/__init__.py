"""MNIST and the sets like it as a TFDS data set; TFDS wants its builder in its own package."""
