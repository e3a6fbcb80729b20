"""Do the tests notice a wrong kernel? python tests/plant_bugs.py

Each bug is planted in a copy of the package, and the parity tests of the Triton scan run on the copy in Triton's
interpreter. A bug that they let pass is named, and the exit status is 1.
"""

# ruff: noqa: E501 - a bug to a line

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FORWARD, BACKWARD, PARTS, HOST = "triton_forward.py", "triton_backward.py", "triton_parts.py", "triton.py"

# what is wrong: (file, the right text, the wrong text)
BUGS = {
    "a step does not carry the state": (FORWARD, "* before + (delta * u)", "* 0.0 * before + (delta * u)"),
    "the last tile of a segment is skipped": (FORWARD, "for t in range(begin, end, TILE)", "for t in range(begin, end - TILE, TILE)"),
    "the mask lets one step too many in": (FORWARD, "inside & (i < steps_left), 0.0)", "inside & (i <= steps_left), 1.0)"),
    "the last row is not written": (FORWARD, "rows[i], inside & (i < steps_left))", "rows[i], inside & (i < steps_left - 1))"),
    "a tile begins with the step size of the one before": (FORWARD, "step_size(raws_ahead[0]", "step_size(raws[0]"),
    "the state of a chunk's last tile is stored as its first": (FORWARD, "t % CHUNK == 0", "t % TILE == 0"),
    "exponentials are wrong by 1e-4": (FORWARD, "exp2(delta[:, None] * A2[j], EXACT)", "1.0001 * exp2(delta[:, None] * A2[j], EXACT)"),
    "the exponential's polynomial is a little off": (FORWARD, "0.2402264689", "0.2402164689"),
    "the state slips by 0.1 % a tile": (FORWARD, "        raws = raws_ahead\n        zs = zs_ahead\n", "        h = tuple([x * 0.999 for x in h])\n        raws = raws_ahead\n        zs = zs_ahead\n"),
    "the softplus is a little off": (FORWARD, "-0.4999949314", "-0.4989949314"),
    "a part forgets what came before": (PARTS, "decays[i] * state + locals[i]", "locals[i]"),
    "a reset comes one step late": (FORWARD, "carry = tl.load(starts_ptr + batch * padded_length + t + i) == 0", "carry = tl.load(starts_ptr + batch * padded_length + tl.maximum(t + i - 1, 0)) == 0"),
    "dA has the wrong sign": (BACKWARD, "dAj += through_factor * deltas", "dAj -= through_factor * deltas"),
    "the adjoint does not decay": (BACKWARD, "qj = factors[TILE - 1 - k] * g", "qj = g"),
    "a tile starts from its neighbour's state": (BACKWARD, "tile_ahead = tl.maximum(tile - 1, 0)", "tile_ahead = tl.maximum(tile - 2, 0)"),
    "a reset does not stop the adjoint": (BACKWARD, "factor = tl.where(carry, factor, 0.0)", "factor = factor"),
    "the gate's slope is wrong": (BACKWARD, "gate + z * gate * (1 - gate)", "gate + z * gate"),
    "the softplus's slope is forgotten": (BACKWARD, "ddelta *= sigmoid(raws[i].to(tl.float32) + bias, EXACT)", "ddelta *= 1.0"),
    "the sums over channels miss a block": (HOST, "total = shares.sum(1)", "total = shares[:, :1].sum(1)"),
    "the adjoint of a later part is dropped": (HOST, "part_length) - parts_of_segment", "part_length) - parts_of_segment - 1"),
}  # fmt: skip


def is_caught(folder: Path, file: str, right: str, wrong: str) -> bool:
    """Whether a test sees a wrong number once `right` reads `wrong`."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "src/baby_mamba/ops/selective_scan" / file
    text = path.read_text()
    if text.count(right) == 0:
        raise SystemExit(f"{file} has no {right!r} any more: plant that bug elsewhere")
    path.write_text(text.replace(right, wrong))
    tests = ROOT / "tests/parity/test_triton_scan.py"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-o", f"pythonpath={folder}/src"]
    run = subprocess.run([*command, str(tests)], cwd=ROOT, capture_output=True, text=True)
    caught = "relative error" in run.stdout
    if run.returncode != caught:
        raise SystemExit(f"the tests ended in another way:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return caught


def main() -> None:
    missed = []
    for name, bug in BUGS.items():
        with tempfile.TemporaryDirectory() as folder:
            caught = is_caught(Path(folder), *bug)
        print(f"{'caught' if caught else 'MISSED'}: {name}", flush=True)
        if not caught:
            missed.append(name)
    print(f"{len(BUGS) - len(missed)} of {len(BUGS)} caught")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
