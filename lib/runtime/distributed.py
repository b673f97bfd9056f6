"""One process or several: `torchrun` sets the environment; everything here also works without it."""
import os
import time
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def setup(device):
    """Join the process group that torchrun announces: gloo for what is on the CPU, nccl for what is on CUDA."""
    if os.environ.get('WORLD_SIZE') and not dist.is_initialized():
        dist.init_process_group('cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo')


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world():
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(items):
    """The lists of all processes as one list, rank 0's first; on every process."""
    if world() == 1:
        return list(items)
    lists = [None] * world()
    dist.all_gather_object(lists, list(items))
    return [item for part in lists for item in part]


def any_process(flag):
    """True on every process if the flag is true on any, so that all stop at the same step. Waits for no device."""
    if world() == 1:
        return bool(flag)
    flags = torch.tensor(int(bool(flag)))
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def mean(values):
    """The mean over the processes of each of a list of 0-d tensors, as floats; all processes give as many."""
    if not values:
        return []
    values = torch.stack(values).double()
    if world() > 1:
        dist.all_reduce(values)
    return (values / world()).tolist()


def average_buffers(network):
    """Average the batch norm statistics of a network over the processes, each of which has seen its own batches."""
    if world() == 1:
        return
    for norm in (module for module in network.modules() if isinstance(module, _BatchNorm)):
        for buffer in norm.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= world()


def wrap(network, device, sync_bn=False):
    """The network in DistributedDataParallel where there are several processes, else itself."""
    if world() == 1:
        return network
    if sync_bn:
        network = sync_batch_norm(network, device)
    # Buffers are averaged when they are read: broadcasting them at each forward would change, between two forwards of a
    # discriminator, what the backward of the first one needs.
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)  # new versions of torch have another name for the flag
        return nn.parallel.DistributedDataParallel(
            network, device_ids=[device.index] if device.type == 'cuda' else None, broadcast_buffers=False)


def unwrap(network):
    """The network itself, without its DDP and compile wrappers."""
    network = getattr(network, '_orig_mod', network)
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network


def shutdown(together=True):
    """Leave the process group. together: every process does so now.

    With NCCL a process that fails alone must not: it would wait for the others, who wait for it. torchrun ends them.
    """
    if dist.is_initialized() and (together or 'nccl' not in dist.get_backend()):
        if 'gloo' in dist.get_backend():
            # Its threads free the last tensors, for which they need the interpreter's lock: torch before 2.4 holds that
            # while it waits for them, for ever.
            time.sleep(0.1)
        dist.destroy_process_group()


# ---------------------------------------------------------------------------------------- batch norm over all processes

def sync_batch_norm(network, device):
    """Make every batch norm of the network compute its statistics over the batches of all processes."""
    if device.type == 'cuda':
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, GlobalBatchNorm(child))
    return network


class _Sum(torch.autograd.Function):
    """Sum over the processes; its gradient is the sum of the gradients in all processes."""

    @staticmethod
    def forward(ctx, values):
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx, gradient):
        return _Sum.apply(gradient)


class GlobalBatchNorm(_BatchNorm):
    """What nn.SyncBatchNorm is on CUDA, for CPUs; it takes over the parameters and buffers of a batch norm."""

    def __init__(self, norm):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def _check_input_dim(self, _):
        pass

    def forward(self, x):
        """x (N, C, ...), N may differ between the processes; the same shape and type, computed in float32."""
        if not self.training:
            return super().forward(x)
        dtype, x = x.dtype, x.float()
        axes, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        *sums, count = _Sum.apply(torch.cat([x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])])).split(x.shape[1])
        mean = sums[0] / count
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(dtype)
