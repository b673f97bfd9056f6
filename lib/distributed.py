"""One process or several: `torchrun` sets the environment, everything here works without it too."""
import os

import torch
import torch.distributed as dist


def setup(device):
    """Join the process group that torchrun announces (nccl on CUDA, gloo else); returns this process's device."""
    if 'WORLD_SIZE' not in os.environ or dist.is_initialized():
        return device
    if device.type == 'cuda':
        device = torch.device('cuda', int(os.environ['LOCAL_RANK']))
        torch.cuda.set_device(device)
    dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
    return device


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


def any_process(flag, device):
    """True on every process where it is true on one: how all stop at the same step."""
    if world() == 1:
        return bool(flag)
    flags = torch.tensor(int(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def wrap(network, device, sync_bn=False):
    """The network in DistributedDataParallel where there are several processes, else itself."""
    if world() == 1:
        return network
    if sync_bn:
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return torch.nn.parallel.DistributedDataParallel(
        network, device_ids=[device.index] if device.type == 'cuda' else None, broadcast_buffers=False)


def unwrap(network):
    """The network itself, without what `wrap` and torch.compile laid round it."""
    network = getattr(network, '_orig_mod', network)
    return network.module if isinstance(network, torch.nn.parallel.DistributedDataParallel) else network


def shutdown():
    if dist.is_initialized():
        dist.destroy_process_group()
