"""Text from a 130M Mamba: tokens a second, beside what the GPU's memory allows, and what a long prompt costs.

    python benchmarks/decoding.py [--batch N ...] [--prefill] [--sweep] [--output FOLDER]    # on an NVIDIA GPU
    python benchmarks/decoding.py --small                                                    # on a CPU, in seconds

The model is the paper's: d_model 768, 24 layers, vocabulary 50,280, with weights in bfloat16 (A_log and D in float32).
A rate is that of `stream`, with everything that it does between two tokens: the likeliest token, or one drawn at
temperature 1, after a prompt of 100 tokens and after one of 100,000. The first tokens are not counted: in them kernels
are compiled and the step is captured. Before anything is timed, the step's scores are compared with those of the
model's own layers in float32.

The roof is the time in which memory gives the weights, once for the whole batch, and gives and takes the states, at the
rate of a large copy, measured here.

With --prefill: time per token and memory of a prompt of 1,048,576 tokens against one of 32,768, in chunks of several
lengths. With --sweep: the step alone, in other tilings. With --output all figures go into decoding.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from baby_mamba import Mamba, MambaConfig, prefill, repeat_state, stream
from baby_mamba.decoding import Decoder, FusedStep, LentState, OrdinaryStep, Plan
from baby_mamba.environment import describe_environment
from baby_mamba.layers import MambaState, map_state

MODEL = MambaConfig(d_model=768, n_layer=24, vocab_size=50280)
SMALL_MODEL = replace(MODEL, d_model=32, n_layer=2, vocab_size=500)
WIDE = ("A_log", "D")  # stay in float32, as from_pretrained leaves them
UNTIMED_TOKENS, TIMED_TOKENS, REPEATS = 20, 500, 3
LIMIT = 0.05  # of the relative error of bfloat16 scores


class Setting(NamedTuple):
    """What the command line says."""

    device: torch.device
    shape: MambaConfig
    batches: list[int]
    contexts: list[int]
    prefills: list[int]
    chunks: list[int]

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def tokens(self, batch: int, length: int) -> Tensor:
        return torch.randint(self.shape.vocab_size, (batch, length), device=self.device)

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, function: Callable[[], object]) -> float:
        self.synchronize()
        start = time.perf_counter()
        function()
        self.synchronize()
        return time.perf_counter() - start


def build(setting: Setting) -> Mamba:
    torch.manual_seed(0)
    model = Mamba(setting.shape).to(setting.device)
    for name, parameter in model.named_parameters():
        if setting.on_gpu and not name.endswith(WIDE):
            parameter.data = parameter.data.bfloat16()
    return model.eval()


# ------------------------------------------------------------------------------------------------------- measurements


def copy_rate(setting: Setting) -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.empty(2**30 if setting.on_gpu else 2**26, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * len(source) / min(setting.seconds(lambda: target.copy_(source)) for _ in range(10))


def step_bytes(model: Mamba, batch: int) -> dict[str, int]:
    """Bytes that a step has to move at least."""
    _, state = prefill(model, torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return {"weights": weights, "states": 2 * batch * sum(tensor.nbytes for layer in state for tensor in layer)}


def state_after(model: Mamba, context: int, batch: int, setting: Setting) -> MambaState:
    """Of a batch whose rows differ a little, though only one text is read."""
    _, state = prefill(model, setting.tokens(1, context))
    noise = 1 + 0.1 * torch.rand(batch, 1, 1, device=setting.device)
    return map_state(lambda tensor: (tensor * noise).to(tensor.dtype), repeat_state(state, batch))


def measure_error(model: Mamba, batch: int, setting: Setting) -> float:
    """The largest relative error of a row of scores, the step's against the same layers in float32."""
    state, tokens = state_after(model, setting.contexts[0], batch, setting), setting.tokens(batch, 1)
    wide = Mamba(model.config).to(setting.device)
    wide.load_state_dict(model.state_dict())
    expected, _ = prefill(wide, tokens, state=map_state(Tensor.float, state))
    with torch.no_grad():
        got, _ = Decoder(model, batch).advance(tokens[:, 0], state)
    error = ((got.float() - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()
    if not error < LIMIT:
        raise SystemExit(
            f"batch {batch}: scores differ by {error:.3f} from those in float32; expected less than {LIMIT}"
        )
    return error


def decoding_rate(
    model: Mamba, state: MambaState, temperature: float, timed: int, setting: Setting
) -> dict[str, object]:
    """Tokens a second of `stream`, over all rows."""
    batch = len(state[0].ssm)

    def run() -> float:
        steps = stream(
            model,
            setting.tokens(batch, 1),
            state=state,
            max_new_tokens=UNTIMED_TOKENS + timed,
            temperature=temperature,
        )
        for _ in islice(steps, UNTIMED_TOKENS):
            pass
        return setting.seconds(lambda: [None for _ in steps])

    run()
    seconds = [run() for _ in range(REPEATS)]
    step = statistics.median(seconds) / timed
    return {
        "tokens/s": round(batch / step),
        "us a step": 1e6 * step,
        "all us a step": [1e6 * s / timed for s in seconds],
    }


def measure_decoding(model: Mamba, rate: float, setting: Setting) -> list[dict[str, object]]:
    rows = []
    timed = TIMED_TOKENS if setting.on_gpu else 20
    for batch in setting.batches:
        moved = step_bytes(model, batch)
        error = measure_error(model, batch, setting) if setting.on_gpu else None
        for context in setting.contexts:
            state = state_after(model, context, batch, setting)
            for name, temperature in (("likeliest", 0.0), ("drawn", 1.0)):
                figures = decoding_rate(model, state, temperature, timed, setting)
                roof = batch * rate / sum(moved.values())
                rows.append(
                    {
                        "batch": batch,
                        "context": context,
                        "token": name,
                        **figures,
                        "roof (tokens/s)": round(roof),
                        "of the roof (%)": 100 * figures["tokens/s"] / roof,
                        "weights (MB)": moved["weights"] / 1e6,
                        "states (MB)": moved["states"] / 1e6,
                        "largest error of scores": error,
                    }
                )
                print(line(rows[-1]), flush=True)
    return rows


def measure_prefill(model: Mamba, setting: Setting) -> list[dict[str, object]]:
    rows = []
    for chunk in setting.chunks:
        for length in setting.prefills:
            ids = setting.tokens(1, length)
            prefill(model, ids[:, : 2 * chunk], chunk_length=chunk)
            if setting.on_gpu:
                torch.cuda.reset_peak_memory_stats()
            seconds = setting.seconds(lambda ids=ids, chunk=chunk: prefill(model, ids, chunk_length=chunk))
            rows.append({"chunk": chunk, "tokens": length, "s": seconds, "ns a token": 1e9 * seconds / length})
            if setting.on_gpu:
                rows[-1]["peak (GiB)"] = torch.cuda.max_memory_allocated() / 2**30
            print(line(rows[-1]), flush=True)
    return rows


# -------------------------------------------------------------------------------------------------------------- sweep


def variants(plan: Plan) -> dict[str, Plan]:
    """The plan, and what differs from it in one kernel."""
    changes: dict[str, list[dict[str, int]]]
    if plan.project_in.rows == 1:
        changes = {
            "project_in": [{"block": 16}, {"block": 16, "k": 128, "warps": 8}, {"early": 1}],
            "project_out": [{"block": 4, "warps": 4}, {"block": 8, "warps": 8}, {"block": 32, "warps": 32}],
            "head": [{"block": 16, "warps": 16}],
        }
        states = [(1, 8, 4), (1, 16, 2), (1, 16, 8), (1, 32, 4), (1, 32, 8)]
    else:
        changes = {
            "project_in": [{"warps": 4}, {"block": 32}, {"rows": 32, "block": 32}, {"k": 128, "stages": 7}],
            "project_out": [{"parts": 1}, {"parts": 2}, {"block": 16}, {"block": 64}, {"warps": 8}],
            "project_delta": [{"block": 64}],
        }
        states = [(8, 32, 4), (8, 64, 8), (4, 64, 4), (2, 64, 8), (4, 128, 8)]
    found = {"plan": plan, "no overlap": replace(plan, overlap=False)}
    for kernel, alternatives in changes.items():
        for change in alternatives:
            found[f"{kernel} {change}"] = replace(plan, **{kernel: replace(getattr(plan, kernel), **change)})
    for rows, block, warps in states:
        change = {"state_rows": rows, "state_block": block, "state_warps": warps}
        found[str(change)] = replace(plan, **change)
    return found


def sweep(model: Mamba, batch: int, setting: Setting) -> list[dict[str, object]]:
    """Microseconds of the step alone. A tiling that does not compile or run gets its error."""
    state, tokens = state_after(model, setting.contexts[0], batch, setting), setting.tokens(batch, 1)[:, 0]
    steps: dict[str, Callable[[], object]] = {"own layers": lambda: OrdinaryStep(model, batch)}
    for name, plan in variants(Plan.of(model, batch)).items():
        steps[name] = lambda plan=plan: FusedStep(model, batch, plan)
    rows, expected = [], None
    for name, make in steps.items():
        try:
            with torch.no_grad():
                decoder = Decoder(model, batch, step=make())
                got, _ = decoder.advance(tokens, state)
            got = got.float().clone()
            expected = got if expected is None else expected
            rows.append(
                {
                    "batch": batch,
                    "step": name,
                    "us": min(step_us(decoder, tokens, state) for _ in range(3)),
                    "difference": ((got - expected).norm() / expected.norm()).item(),
                }
            )
            if name in ("plan", "no overlap", "own layers"):
                rows[-1]["kernels"] = kernel_us(decoder, tokens, state)
        except Exception as error:
            rows.append({"batch": batch, "step": name, "error": f"{type(error).__name__}: {str(error)[:100]}"})
        print(line({key: value for key, value in rows[-1].items() if key != "kernels"}), flush=True)
        for kernel, us in list(rows[-1].get("kernels", {}).items())[:12]:
            print(f"    {us:7.1f} us  {kernel[:90]}", flush=True)
    return rows


def advance(decoder: Decoder, tokens: Tensor, state: MambaState | LentState, count: int) -> LentState:
    with torch.inference_mode():
        for _ in range(count):
            _, state = decoder.advance(tokens, state)
    return state


def step_us(decoder: Decoder, tokens: Tensor, state: MambaState, count: int = 100) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    lent = advance(decoder, tokens, state, 10)
    start.record()
    advance(decoder, tokens, lent, count)
    end.record()
    end.synchronize()
    return 1e3 * start.elapsed_time(end) / count


def kernel_us(decoder: Decoder, tokens: Tensor, state: MambaState, count: int = 5) -> dict[str, float]:
    """Microseconds a step by kernel. Where kernels overlap, their times add up to more than the step's."""
    state = advance(decoder, tokens, state, 1)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        state = advance(decoder, tokens, state, count)
        torch.cuda.synchronize()
    by_name = {
        f"{event.key} x {event.count // count}": event.self_device_time_total / count
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    }
    return dict(sorted(by_name.items(), key=lambda item: -item[1]))


# ------------------------------------------------------------------------------------------------------------- report


def line(row: dict[str, object]) -> str:
    formats = {float: "{:,.4g}", int: "{:,}"}
    shown = {name: value for name, value in row.items() if value is not None and not isinstance(value, list)}
    return ", ".join(f"{name} {formats.get(type(value), '{}').format(value)}" for name, value in shown.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="rows that are written at once (1 64)")
    parser.add_argument("--prefill", action="store_true", help="also read prompts of up to 1,048,576 tokens")
    parser.add_argument("--sweep", action="store_true", help="only time the step, in many tilings")
    parser.add_argument("--small", action="store_true", help="a tiny model and short texts")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write decoding.json there")
    arguments = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    if not (on_gpu or arguments.small):
        parser.error("there is no CUDA device; a CPU can run --small")
    if arguments.sweep and not on_gpu:
        parser.error("--sweep needs a CUDA device")

    setting = Setting(
        device=torch.device("cuda" if on_gpu else "cpu"),
        shape=SMALL_MODEL if arguments.small else MODEL,
        batches=arguments.batch,
        contexts=[10, 100] if arguments.small else [100, 100_000],
        prefills=[256, 1024] if arguments.small else [32_768, 1_048_576],
        chunks=[64, 256] if arguments.small else [4096, 16_384, 32_768],
    )
    environment = describe_environment()
    for name, value in environment.items():
        print(f"{name}: {value}")
    model, rate = build(setting), copy_rate(setting)
    print(f"copy: {rate / 1e9:,.0f} GB/s")
    results: dict[str, object] = {"environment": environment, "copy_bytes_per_second": rate}
    if arguments.sweep:
        results["sweep"] = [row for batch in setting.batches for row in sweep(model, batch, setting)]
    else:
        results["decoding"] = measure_decoding(model, rate, setting)
    if arguments.prefill:
        results["prefill"] = measure_prefill(model, setting)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "decoding.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
