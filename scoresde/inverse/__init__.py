"""Inverse problems: y = A(x) + noise."""

from scoresde.inverse.function_operator import Operator as Operator
from scoresde.inverse.gradient_steps import GradientSteps as GradientSteps
from scoresde.inverse.linear_operator import LinearOperator as LinearOperator
from scoresde.inverse.operators import Blur as Blur
from scoresde.inverse.operators import Downsample as Downsample
from scoresde.inverse.operators import Gray as Gray
from scoresde.inverse.operators import Mask as Mask
from scoresde.inverse.operators import Projection as Projection
from scoresde.inverse.posterior import DPS as DPS
from scoresde.inverse.posterior import MMPS as MMPS
from scoresde.inverse.posterior import PiGDM as PiGDM
from scoresde.inverse.replacement import Replacement as Replacement
from scoresde.inverse.twisted_smc import Particles as Particles
from scoresde.inverse.twisted_smc import twisted_smc as twisted_smc
