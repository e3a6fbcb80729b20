"""A decoding step in plain PyTorch: the selective scan over one step, and its final state put back in place."""

from torch import Tensor

from baby_mamba.ops.selective_scan import selective_scan


def selective_state_update(
    backend: str,
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    state_indices: Tensor | None,
) -> Tensor:
    """The step by the scan of `backend`; the other arguments and the result as `ops.selective_state_update`."""
    if state_indices is not None:
        active = state_indices >= 0
        slots = state_indices[active].long()
        states, y = state[slots], u.new_zeros(u.shape)
        y[active] = selective_state_update(
            backend, states, u[active], delta[active], A, B[active], C[active], D, None if z is None else z[active],
            delta_bias, delta_softplus, None,
        )  # fmt: skip
        state[slots] = states
        return y
    y, after = selective_scan(
        u.unsqueeze(1), delta.unsqueeze(1), A, B.unsqueeze(1), C.unsqueeze(1), D,
        z=None if z is None else z.unsqueeze(1), delta_bias=delta_bias, delta_softplus=delta_softplus,
        initial_state=state, return_final_state=True, backend=backend,
    )  # fmt: skip
    state.copy_(after)
    return y.squeeze(1)
