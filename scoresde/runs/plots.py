"""Pictures of a run: grids of images, training curves, points and densities of the plane, paths.

Nothing here uses matplotlib's global state, so these functions work in any thread.
"""

from scoresde.runs.image_grid import image_grid as image_grid
from scoresde.runs.path_gif import path_gif as path_gif
from scoresde.runs.plane import densities_2d as densities_2d
from scoresde.runs.plane import scatter_2d as scatter_2d
from scoresde.runs.rank_plot import plot_ranks as plot_ranks
from scoresde.runs.restoration import plot_restoration as plot_restoration
from scoresde.runs.training_curve import training_curve as training_curve
