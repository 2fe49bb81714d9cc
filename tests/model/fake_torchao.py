"""A stand-in for `torchao.optim` 0.18 on a CPU: its interface and its ways, in a few lines.

Like the original it copies each gradient when backward has made it, in an order that it remembers,
gives every large parameter an optimizer of its own, has groups of one parameter, and neither a
state nor defaults.
"""

import torch
from torch.optim import Optimizer


class _Event:
    def synchronize(self):
        pass


class _Stream:
    def wait_stream(self, other):
        pass

    def record_event(self):
        return _Event()

    def synchronize(self):
        pass


class CPUOffloadOptimizer(Optimizer):
    def __init__(
        self, params, optimizer_class, *, offload_gradients=False, minimal_size=4096, **kwargs
    ):
        assert not offload_gradients
        self.device, self.stream = "cpu", _Stream()
        self.queue, self.param_d2h_map, self.optim_dict = {}, {}, {}
        self.d_opt, self.d_param_groups = None, []
        for group in params:
            rest = {key: value for key, value in group.items() if key != "params"}
            small = []
            for parameter in group["params"]:
                if parameter.numel() < minimal_size:
                    small.append(parameter)
                    continue
                host = parameter.detach().clone()
                host.grad = torch.full_like(host, torch.nan)
                self.param_d2h_map[parameter] = host
                parameter.register_post_accumulate_grad_hook(self._arrived)
                self.optim_dict[parameter] = optimizer_class([{"params": host, **rest}], **kwargs)
            if small:
                self.d_param_groups.append({"params": small, **rest})
        if self.d_param_groups:
            self.d_opt = optimizer_class(self.d_param_groups, **kwargs)

    def _arrived(self, parameter):
        self.param_d2h_map[parameter].grad.copy_(parameter.grad)
        self.queue[parameter] = _Event()

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is None
        if self.d_opt is not None:
            self.d_opt.step()
        for parameter, event in self.queue.items():
            event.synchronize()
            self.optim_dict[parameter].step()
            parameter.copy_(self.param_d2h_map[parameter])
        self.queue.clear()

    def zero_grad(self, set_to_none=True):
        assert set_to_none
        for parameter in self.param_d2h_map:
            parameter.grad = None
        if self.d_opt is not None:
            self.d_opt.zero_grad()

    @property
    def param_groups(self):
        groups = (optimizer.param_groups for optimizer in self.optim_dict.values())
        return sum(groups, start=self.d_param_groups)

    def state_dict(self):
        found = {"offloaded": [one.state_dict() for one in self.optim_dict.values()]}
        return {**found, "on-device": self.d_opt.state_dict()} if self.d_opt else found

    def load_state_dict(self, state_dict):
        for one, state in zip(self.optim_dict.values(), state_dict["offloaded"], strict=True):
            one.load_state_dict(state)
        if self.d_opt:
            self.d_opt.load_state_dict(state_dict["on-device"])
