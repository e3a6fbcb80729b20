"""The trainer.

    trainer = Trainer(model, train_set, eval_set, TrainerConfig(max_steps=200))
    result = trainer.train()
    trainer.evaluate().loss

The loop is in `Trainer._run`, and one optimiser step in `Trainer.training_step`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from baby_mamba.config import GenerationConfig, RunConfig, TrainerConfig
from baby_mamba.data import Dataset, Tokenizer, labelled, loader
from baby_mamba.errors import CheckpointError, TrainingError
from baby_mamba.models import Mamba, Model, Transformer
from baby_mamba.training import run_folder
from baby_mamba.training.captured_step import CapturedStep
from baby_mamba.training.checkpoint import TrainerState, load_checkpoint, save_checkpoint
from baby_mamba.training.device import choose_device
from baby_mamba.training.evaluation import Evaluation, evaluate
from baby_mamba.training.interrupt import stop_on_ctrl_c
from baby_mamba.training.metrics import MetricsLog, require_tensorboard
from baby_mamba.training.optimizer import build_optimizer
from baby_mamba.training.report import ConsoleReporter, Progress, Reporter, TrainingResult
from baby_mamba.training.sampling import append_text, sample_text
from baby_mamba.training.schedule import learning_rate


class Trainer:
    """Trains a model, evaluates it, and keeps its run folder.

    A run that is stopped, by Ctrl-C, a crash or a limit, goes on from its last checkpoint as if it had never stopped:
    weights, optimizer and order of the windows are the same to the last bit. With `max_minutes` the learning rate
    follows the clock, and then only data and state continue exactly.

    Args:
        model: the model; it is moved to `config.device` and trained in place.
        train_set: windows to train on, or a task.
        eval_set: the held-out split, or a task.
        config: everything else. An empty `ckpt_path` writes nothing.
        tokenizer: saved with every checkpoint and used for sample texts; without it there are none.
        run_config: the whole configuration, if there is one: for config.ini, and for the sample texts.
        characters_per_token: of the held-out split, for the loss in bits per character.
        reporter: shows the progress; None shows it on the console.

    Raises:
        ConfigError: the device is not there, or tensorboard is not installed.
        DataError: the training split is smaller than a batch.
    """

    def __init__(
        self,
        model: Model,
        train_set: Dataset,
        eval_set: Dataset,
        config: TrainerConfig,
        *,
        tokenizer: Tokenizer | None = None,
        run_config: RunConfig | None = None,
        characters_per_token: float | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        if config.tensorboard:
            require_tensorboard()
        if config.num_threads:
            torch.set_num_threads(config.num_threads)
        self.config = config
        self.device = choose_device(config.device)
        self.model = model.to(self.device)
        self.train_set = train_set
        self.eval_set = eval_set
        self.tokenizer = tokenizer
        self.run_config = run_config
        self.generation_config = run_config.generation_config if run_config else GenerationConfig()
        self.characters_per_token = characters_per_token
        self.reporter = reporter or ConsoleReporter()
        self.folder = Path(config.ckpt_path) if config.ckpt_path else None
        steps_per_epoch = train_set.steps_per_epoch(config.train_batch_size)
        self.total_steps = config.max_steps or config.max_epoch * steps_per_epoch
        self.use_bfloat16 = config.precision == "bfloat16" or (
            config.precision == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported(False)
        )
        self._samples_path = self.generation_config.generated_text_path or (
            self.folder and self.folder / run_folder.SAMPLES
        )
        self.optimizer = build_optimizer(self.model, config)
        self._captured_step: CapturedStep | None = None
        self._prepare_step()
        self.state = TrainerState()
        self._saved_step = self._sampled_step = 0
        self._evaluation: Evaluation | None = None
        self._latest: deque[tuple[float, int, float]] = deque(maxlen=50)  # loss, tokens, seconds of the latest steps

    # What callers use

    def train(self) -> TrainingResult:
        """Train until the steps or the time are used up, the held-out loss no longer improves, or Ctrl-C is pressed.

        Ctrl-C ends the step, saves and returns; a second one stops at once, and the last checkpoint is kept.

        Raises:
            TrainingError: the loss or the gradient is not finite; weights and checkpoints are as before the step.
            CheckpointError: the run folder cannot be used or written, or its checkpoint is damaged or of another model.
        """
        if self.folder is not None:
            run_folder.check_run_folder(self.config, self.run_config)
        with (
            run_folder.only_writer(self.folder) if self.folder else nullcontext(),
            self.reporter,
            stop_on_ctrl_c() as stop_requested,
        ):
            self._begin()
            with closing(MetricsLog(self.folder, self.state.step, tensorboard=self.config.tensorboard)) as metrics:
                self._run(metrics, stop_requested)
                result = self._end(metrics, interrupted=bool(stop_requested))
            self.reporter.finish(result)
            return result

    def evaluate(self) -> Evaluation:
        """The loss over the whole held-out split, with the present weights."""
        with self._autocast():
            return evaluate(
                self.model,
                self.eval_set,
                self.config.eval_batch_size,
                characters_per_token=self.characters_per_token,
            )

    def training_step(self, input_ids: Tensor, rate: float, labels: Tensor | None = None) -> tuple[float, float]:
        """One optimiser step, with a learning rate.

        Args:
            input_ids: (batch, length), on the trainer's device.
            rate: the learning rate.
            labels: as the model takes them, with as many scored in each row; None scores all of input_ids.

        Returns:
            (loss, norm): the loss in nats per token, and the norm of its gradient before clipping.

        Raises:
            TrainingError: one of them is not finite; the step is not taken.
        """
        labels = input_ids if labels is None else labels
        if self._captured_step is not None:
            loss, norm = self._captured_step(input_ids, labels, rate)
        else:
            self.optimizer.zero_grad()
            # One transfer, because on a GPU each one waits for everything that came before.
            loss, norm = self._gradients(input_ids, labels).tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"step {self.state.step + 1}: the loss is {loss:g} and the norm of its gradient {norm:g}, at learning "
                f"rate {rate:.2e}; the step was not taken. Lower training_config.learning_rate, raise warmup_steps, "
                "set gradient_clip = 1 or precision = float32; resume = auto then goes on from the last checkpoint"
            )
        if self._captured_step is None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        return loss, norm

    def _gradients(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """Compute the gradients, clip them, and return the loss and the norm before clipping, without waiting."""
        loss = torch.zeros((), device=self.device)
        n_parts = self.config.gradient_accumulation_steps
        for part, part_labels in zip(input_ids.tensor_split(n_parts), labels.tensor_split(n_parts), strict=True):
            with self._autocast():
                part_loss = self.model(part, labels=part_labels, return_logits=False).loss
                part_loss = part_loss * (len(part) / len(input_ids))
            part_loss.backward()
            loss += part_loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip or math.inf)
        return torch.stack([loss, norm])

    def _prepare_step(self) -> None:
        """Have the step replayed as a CUDA graph if it may be: with kernels that never wait for the GPU.

        To be called again once the optimiser's state was replaced, for a graph holds on to the one that it was made of.
        """
        fused = isinstance(self.model, Mamba | Transformer) and self.model.config.backend in ("auto", "triton")
        if self.config.cuda_graph and self.device.type == "cuda" and fused:
            self._captured_step = CapturedStep(self._gradients, self.optimizer)

    # The loop

    def _run(self, metrics: MetricsLog, stop_requested: list[int]) -> None:
        config, state = self.config, self.state
        if self._reason_to_stop():
            self.reporter.message(
                f"this run is complete: {self._reason_to_stop()}; to go on raise training_config.max_steps, max_epoch, "
                "max_minutes or early_stopping_patience, or lower target_loss, and to start afresh use "
                "training_config.resume = never"
            )
            return
        batches = iter(
            loader(
                self.train_set,
                config.train_batch_size,
                start_step=state.step,
                n_steps=self.total_steps - state.step,
                seed=config.seed,
                num_workers=config.num_workers,
                pin_memory=self.device.type == "cuda",
            )
        )
        self.model.train()
        seconds_before, start = state.seconds, time.monotonic()
        while not stop_requested and not self._reason_to_stop():
            step_start = time.monotonic()
            rate = learning_rate(state.step, self.total_steps, config, self._elapsed())
            input_ids, labels = labelled(next(batches)).to(self.device)
            loss, gradient_norm = self.training_step(input_ids, rate, labels)
            state.step += 1
            state.tokens += input_ids.numel()
            self._latest.append((loss, input_ids.numel(), time.monotonic() - step_start))
            state.seconds = seconds_before + time.monotonic() - start

            fraction = min(1.0, max(state.step / self.total_steps, self._elapsed()))
            progress = Progress(state.step, self.total_steps, fraction, loss, rate, self._tokens_per_second())
            self.reporter.step(progress)
            if state.step % config.log_every_steps == 0:
                metrics.write(
                    {
                        "step": state.step,
                        "tokens": state.tokens,
                        "seconds": state.seconds,
                        "train_loss": loss,
                        "learning_rate": rate,
                        "gradient_norm": gradient_norm,
                        "tokens_per_second": progress.tokens_per_second,
                    }
                )
            if state.step % config.eval_every_steps == 0 or self._reason_to_stop():
                self._evaluate_and_record(metrics)
            if config.sample_every_steps and state.step % config.sample_every_steps == 0:
                self._sample()
            if state.step % config.save_every_steps == 0 or state.best_step == state.step:
                self._save()

    def _reason_to_stop(self) -> str:
        """Why training is over, in words; empty while it is not."""
        config, state = self.config, self.state
        if state.step >= self.total_steps:
            limit = f"max_steps = {config.max_steps}" if config.max_steps else f"max_epoch = {config.max_epoch}"
            return f"all {self.total_steps} steps are done (training_config.{limit})"
        if self._elapsed() >= 1:
            return f"the time is used up (training_config.max_minutes = {config.max_minutes:g})"
        if config.target_loss is not None and state.best_loss is not None and state.best_loss <= config.target_loss:
            return f"the held-out loss is down to {state.best_loss:.2g} (training_config.target_loss)"
        if 0 < config.early_stopping_patience <= state.evaluations_without_improvement:
            return f"{state.evaluations_without_improvement} evaluations brought no lower held-out loss"
        return ""

    # Before and after the loop

    def _begin(self) -> None:
        """Continue the run in the folder, continue another run here, or start one."""
        source = run_folder.resumed_folder(self.config)
        if source is not None:
            self.state = load_checkpoint(source, self.model, self.optimizer)
            self._prepare_step()
            if source != self.folder:  # the best checkpoint of another run stays there
                self.state = replace(
                    self.state, best_loss=None, best_step=None, evaluated_step=None, evaluations_without_improvement=0
                )
            elif self.state.corpus_tokens != self.train_set.n_tokens:
                raise CheckpointError(
                    f"the training split has {self.train_set.n_tokens} tokens, and the run in {self.folder} was "
                    f"trained on {self.state.corpus_tokens}: the text has changed; restore it, or choose another "
                    "training_config.ckpt_path, or training_config.resume = never to start afresh"
                )
            self.reporter.message(f"going on from step {self.state.step} of {source}")
        self.state.corpus_tokens = self.train_set.n_tokens
        self._saved_step = self.state.step
        self.reporter.message(
            f"{self.model.num_parameters():,} parameters on {self.device}; {self.total_steps:,} steps of "
            f"{self.config.train_batch_size} x {self.train_set.block_size} tokens; run folder: {self.folder or 'none'}"
        )
        if self.generation_config.generated_text_path:
            append_text(self.generation_config.generated_text_path, "")  # fail now rather than after the first steps
        if self.folder is not None:
            session = {
                "first_step": self.state.step,
                "seed": self.config.seed,
                "device": str(self.device),
                "precision": "bfloat16" if self.use_bfloat16 else "float32",
                "backend": self.model.config.backend,
                "parameters": self.model.num_parameters(),
            }
            afresh = source != self.folder
            run_folder.begin_run(self.folder, session, self.run_config, self.tokenizer, afresh=afresh)

    def _end(self, metrics: MetricsLog, *, interrupted: bool) -> TrainingResult:
        """Evaluate, save and sample, as far as the loop has not done it at this step; after Ctrl-C only save."""
        state = self.state
        evaluation = None if interrupted else self._evaluate_and_record(metrics)
        if state.step != self._saved_step:
            self._save()
        if not interrupted and self._sampled_step != state.step:
            self._sample()
        losses = [loss for loss, _, _ in self._latest]
        return TrainingResult(
            reason="Ctrl-C; run the same command again to go on" if interrupted else self._reason_to_stop(),
            interrupted=interrupted,
            n_parameters=self.model.num_parameters(),
            step=state.step,
            tokens=state.tokens,
            seconds=state.seconds,
            tokens_per_second=self._tokens_per_second() if losses else None,
            train_loss=sum(losses) / len(losses) if losses else None,
            evaluation=evaluation,
            best_loss=state.best_loss,
            best_step=state.best_step,
        )

    def _evaluate_and_record(self, metrics: MetricsLog) -> Evaluation:
        """Evaluate, unless that has been done at this step, and note it in the metrics and the state, but only once."""
        state = self.state
        if self._evaluation is not None and state.evaluated_step == state.step:
            return self._evaluation
        self._evaluation = evaluation = self.evaluate()
        self.reporter.evaluation(state.step, evaluation)
        if state.evaluated_step == state.step:  # a complete run was started again
            return evaluation
        row = {
            "step": state.step,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "validation_loss": evaluation.loss,
        }
        for name in ("bits_per_character", "accuracy", "sequence_accuracy"):
            if getattr(evaluation, name) is not None:
                row[name] = getattr(evaluation, name)
        metrics.write(row)
        state.evaluated_step = state.step
        state.evaluations_without_improvement += 1
        if state.best_loss is None or evaluation.loss < state.best_loss:
            state.best_loss, state.best_step, state.evaluations_without_improvement = evaluation.loss, state.step, 0
        return evaluation

    def _sample(self) -> None:
        """Show a sample text and append it to the file for samples."""
        self._sampled_step = self.state.step
        if self.tokenizer is None:
            return
        training = self.model.training
        with self._autocast():
            text = sample_text(self.model.eval(), self.tokenizer, self.generation_config)
        self.model.train(training)
        self.reporter.sample(self.state.step, text)
        if self._samples_path:
            append_text(self._samples_path, f"--- step {self.state.step} ---\n{text}\n\n")

    def _save(self) -> None:
        self._saved_step = self.state.step
        if self.folder is not None:
            save_checkpoint(self.folder, self.model, self.optimizer, self.state, self.tokenizer)

    # Small parts

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.use_bfloat16)

    def _elapsed(self) -> float:
        """The share of the time budget that is used up; 0 without a budget."""
        return self.state.seconds / (60 * self.config.max_minutes) if self.config.max_minutes else 0.0

    def _tokens_per_second(self) -> float:
        return sum(tokens for _, tokens, _ in self._latest) / sum(seconds for _, _, seconds in self._latest)
