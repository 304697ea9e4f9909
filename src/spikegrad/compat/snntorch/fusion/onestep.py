"""A module whose `forward` is one time step: which arguments are its states."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field

from torch import Tensor, nn

from spikegrad.compat.snntorch.fusion.operations import FusionError, Out, Tree, leaves, refused
from spikegrad.compat.snntorch.fusion.recording import recorded


@dataclass
class Steps:
    """How a one-step module is called again and again.

    Attributes:
        filled: parameters of `forward` that are states, and are empty tensors where they are left out.
        feeds: of the tensors among the arguments, which is given which of the returned tensors at the next step.
    """

    filled: tuple[str, ...] = ()
    feeds: dict[int, int] = field(default_factory=dict[int, int])


def find_steps(module: nn.Module, arguments: dict[str, Tree]) -> Steps:
    """Find out from one step which arguments are states, and which outputs they become."""
    name, *_ = arguments
    arguments[name] = arguments[name][0]
    parameters = list(inspect.signature(module.forward).parameters.values())
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name in arguments for p in parameters):
        raise refused(module, "its forward takes any number of arguments", None, "name those of a step")
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in arguments]
    required = [p.name for p in plain if p.default is p.empty]
    optional = [p.name for p in plain if p.default is None]

    def record(filled: list[str]) -> Steps:
        empty = {name: arguments[next(iter(arguments))].new_zeros(0) for name in filled}
        given = arguments | empty
        recording = recorded(module, module, (), given)
        owners = [key for key, value in given.items() for _ in leaves(value)]
        returned = leaves(recording.result)
        used = {ref.node for node in recording.nodes for ref in leaves((node.args, node.kwargs)) if isinstance(ref, Out)}
        steps = Steps()
        for place, node in enumerate(recording.inputs):
            states = [(n, state) for n in recording.nodes for state, ref in n.start.items() if ref == Out(node)]
            for spiking, state in states:
                after = Out(spiking, ("spk", *(s for s in spiking.target.STATES if s != "spk")).index(state))
                if after not in returned:
                    raise refused(module, f"argument `{owners[place]}` is a state, and the one after it is not returned", spiking)
                steps.feeds[place] = returned.index(after)
            if place and not states and node in used:
                raise refused(
                    module,
                    f"argument `{owners[place]}` of its step is neither the input nor the state of a spiking layer",
                    None,
                    "write the loop over the steps in its forward",
                )
        fed = {owners[place] for place in steps.feeds}
        steps.filled = tuple(key for key in owners[1:] if isinstance(given[key], Tensor) and (key in fed or key not in optional))
        return steps

    if optional:
        try:
            return record([*required, *optional])
        except (FusionError, TypeError, RuntimeError, ValueError, IndexError):
            pass  # what is optional need not be a state
    return record(required)
