"""Fashion-MNIST and MNIST as a TFDS data set; TFDS wants its builder in a package of its own."""
