"""From a differential equation to the recurrence that Mamba runs: one small function under each equation.

Reading order: `discretisation` (from the equation to a recurrence), `three_views` (one time-invariant system, computed
in three ways, and why selection rules one out), `legendre` (polynomials that do not overlap), `hippo` (a state that
remembers a signal), `initialisation` (what of HiPPO is left in a diagonal A), `s6` (the selective layer as a loop),
`scan` (the recurrence in parallel).

Everything here is written to be read, for one sequence of one channel, and computes in float64 where it makes numbers
of its own; only `S6` is a layer that can be trained. `baby_mamba.ops` holds what a model runs.
"""

from baby_mamba.theory.discretisation import Discrete, bilinear, euler, mamba_rule, phi_1, zero_order_hold
from baby_mamba.theory.hippo import hippo_legs, legs_states, reconstruct
from baby_mamba.theory.initialisation import s4d_inv, s4d_legs, s4d_lin, s4d_real
from baby_mamba.theory.legendre import gram_schmidt, legendre_polynomials, monomial_inner_products
from baby_mamba.theory.s6 import S6
from baby_mamba.theory.scan import AffineMaps, blelloch_scan, chunked_scan, sequential_scan
from baby_mamba.theory.three_views import continuous, convolution_kernel, convolve, mixing_matrix, recurrent

__all__ = [
    "S6",
    "AffineMaps",
    "Discrete",
    "bilinear",
    "blelloch_scan",
    "chunked_scan",
    "continuous",
    "convolution_kernel",
    "convolve",
    "euler",
    "gram_schmidt",
    "hippo_legs",
    "legendre_polynomials",
    "legs_states",
    "mamba_rule",
    "mixing_matrix",
    "monomial_inner_products",
    "phi_1",
    "reconstruct",
    "recurrent",
    "s4d_inv",
    "s4d_legs",
    "s4d_lin",
    "s4d_real",
    "sequential_scan",
    "zero_order_hold",
]
