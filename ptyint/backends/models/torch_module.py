"""A PyTorch module, watched by forward hooks."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import nn

from ptyint.backends.models import INPUTS, Factory, Watched, flat, made
from ptyint.backends.models.rules import KINDS, Parts, kind_of, numbered
from ptyint.backends.protocol import Arrays
from ptyint.backends.pytorch import Recorder


class TorchModule(Watched):
    """See :class:`ptyint.backends.models.Watched`."""

    framework, recorder = "torch", Recorder

    def __init__(self, factory: Factory, precision: str, inputs: Arrays, targets: Arrays) -> None:
        super().__init__(inputs, targets)
        self.dtype = getattr(torch, precision)
        torch.set_default_dtype(self.dtype)
        self.model, self.loss, self.optimiser = made(factory)
        self.before: dict[str, torch.Tensor] = {}
        self.modules: dict[str, Any] = dict(_watched(self.model.to(self.dtype)))
        for name, module in self.modules.items():
            kind = kind_of(type(module))
            if kind == "convolution" and module.groups > 1 and module.weight.shape[1] == 1:
                kind = "depthwise convolution"
            own: list[tuple[str, Any]] = [*module.named_parameters(recurse=kind in KINDS)]
            own += [(key, one) for key, one in module.named_buffers(recurse=False) if key.startswith("running_")]
            self.kinds[name], self.variables[name] = kind, numbered(kind, own)
        for name, module in self.model.named_modules():
            rate = "p" if "Dropout" in type(module).__name__ else "dropout"
            if isinstance(getattr(module, rate, None), float):
                self.rates[name] = getattr(module, rate)
                setattr(module, rate, 0.0)
        self.settings = {} if self.optimiser is None else self.optimiser.defaults
        self.run(inputs, False, self.recorder())
        called = (name for name in self.calls if name in self.kinds)
        self.kinds = {name: self.kinds[name] for name in dict.fromkeys([*called, *self.kinds])}

    def run(self, inputs: Arrays, training: bool, recorder: Any) -> tuple[Any, dict[str, Parts]]:
        """See :class:`ptyint.backends.models.Watched`."""
        torch.set_default_dtype(self.dtype)
        self.model.train(training)
        given = {name: torch.tensor(array) for name, array in inputs.items()}
        leaves = [one.requires_grad_() for one in given.values() if self.flows(one)]
        seen = {name: self.tapped(recorder, self.called(INPUTS), one) for name, one in given.items()}
        with ExitStack() as stack:
            for name, module in self.modules.items():
                stack.callback(module.register_forward_pre_hook(partial(self._enter, recorder, name)).remove)
                stack.callback(module.register_forward_hook(partial(self._leave, recorder, name)).remove)
            result = self.model(*seen.values()) if "0" in seen else self.model(**seen)
        loss = self._loss_of(self.outputs(recorder, result))
        moving = {id(one): one for some in self.variables.values() for one in some.values() if one.requires_grad}
        slopes = torch.autograd.grad(loss, [*leaves, *moving.values()], allow_unused=True)[len(leaves) :]
        found = {key: slope.numpy() for key, slope in zip(moving, slopes, strict=True) if slope is not None}
        return loss.detach().numpy(), self.of_layers(found)

    def _loss_of(self, outputs: Any) -> Any:
        targets = [torch.tensor(array) for array in self.targets.values()]
        if self.loss is not None:
            return self.loss(outputs, targets[0] if len(targets) == 1 else targets)
        squares = zip_longest(flat(outputs), targets, fillvalue=torch.zeros(()))
        return torch.stack([(one - aim).abs().square().mean() for one, aim in squares]).sum()

    def _enter(self, recorder: Any, name: str, module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        tap = self.called(name)
        if module.training and self.kinds[name] == "batch normalisation" and module.running_var is not None:
            self.before[name] = module.running_var.clone()
        return (self.tapped(recorder, f"{tap}:in", args[0]), *args[1:]) if args else args

    def _leave(self, recorder: Any, name: str, module: Any, args: tuple[Any, ...], output: Any) -> Any:
        if name in self.before:
            _over_n(module, self.before.pop(name), args[0].numel() / args[0].shape[1])
        return self.tapped(recorder, self.tap_of(name), output)

    def flows(self, value: Any) -> bool:
        """See :class:`ptyint.backends.models.Watched`."""
        return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())

    def arrays(self, variables: Mapping[str, Any]) -> Parts:
        """See :class:`ptyint.backends.models.Watched`."""
        return {name: one.detach().numpy().copy() for name, one in variables.items()}

    def assign(self, variable: Any, array: Any) -> None:
        """See :class:`ptyint.backends.models.Watched`."""
        with torch.no_grad():
            variable.copy_(torch.tensor(array))

    def move(self, gradients: Mapping[str, Parts]) -> None:
        """See :class:`ptyint.backends.models.Watched`."""
        for name, some in gradients.items():
            for own, array in some.items():
                self.variables[name][own].grad = torch.tensor(array)
        self.optimiser.step()


def _over_n(module: Any, before: torch.Tensor, n: float) -> None:
    """The running variance as Keras keeps it, of batches over n: PyTorch's is over n - 1, whatever the settings."""
    momentum = 1 / float(module.num_batches_tracked) if module.momentum is None else module.momentum
    kept = (1 - momentum) * before
    module.running_var.data.copy_(kept + (module.running_var - kept) * (n - 1) / n)


def _watched(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that are layers: of a kind that is known, without modules in them, or with parameters of their own."""
    closed = "\0"
    for name, module in model.named_modules():
        if name.startswith(closed) or isinstance(module, nn.Identity):
            continue
        known = kind_of(type(module)) in KINDS
        if known or not [*module.children()] or [*module.parameters(recurse=False)]:
            yield name or "model", module
        closed = f"{name}." if known else closed
