"""Images as a source of examples: arrays, folders, TFDS data sets, and MNIST's idx files.

Images are decoded once, to uint8, and cached; a batch is then an indexing. What is random, noise
and flips, happens inside the compiled step (prepare.py):

    fit(key, model, images, prepare=RandomFlip(UniformDequantization()))
"""

from scoresde.data.geometry import Geometry as Geometry
from scoresde.data.image_folder import from_folder as from_folder
from scoresde.data.image_source import Images as Images
from scoresde.data.mnist import emnist as emnist
from scoresde.data.mnist import fashion_mnist as fashion_mnist
from scoresde.data.mnist import kmnist as kmnist
from scoresde.data.mnist import mnist as mnist
from scoresde.data.tfds_images import from_tfds as from_tfds
