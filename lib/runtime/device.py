"""The device and the mixed precision of a run."""
import os

import torch

AMP_DTYPES = {'off': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def pick_device(name):
    """The device of --device, 'auto': CUDA where there is one; ValueError that names the flag where there is none.

    Under torchrun 'cuda' is the GPU of this process; nothing is put on any other. Products of float32 tensors are
    computed as such from here on, without TF32: what a word is read as does not depend on the device.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
        if device.type == 'cuda' and os.environ.get('LOCAL_RANK'):
            device = torch.device('cuda', int(os.environ['LOCAL_RANK']))
        if device.index is not None and device.type == 'cuda':
            torch.cuda.set_device(device)  # what is made on 'cuda' is made there
        torch.zeros(1, device=device).item()  # of 'meta', nothing can be read
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'--device {name}: {str(error).splitlines()[0]}') from error
    return device


def pick_amp(name, device):
    """The mixed precision of --amp, 'auto': bf16 where the device has units for it, else off."""
    if name != 'auto':
        return name
    if device.type == 'cuda':
        return 'bf16' if torch.cuda.get_device_capability(device) >= (8, 0) else 'off'
    # without units, a CPU takes seven times as long in bf16 as in float32, or more; older torch cannot tell
    has_units = getattr(torch.cpu, '_is_avx512_bf16_supported', lambda: False)
    return 'bf16' if device.type == 'cpu' and has_units() else 'off'


def autocast(amp, device):
    """The context of a mixed precision, one of AMP_DTYPES."""
    return torch.autocast(device.type, AMP_DTYPES[amp], enabled=amp != 'off')


def loss_scaler(amp, device):
    """The GradScaler of a mixed precision, None where it needs none; ValueError where this torch has none for it."""
    if amp != 'fp16':
        return None
    if torch.__version__ >= (2, 3):
        return torch.amp.GradScaler(device.type)
    if device.type != 'cuda':
        raise ValueError(f'--amp fp16: needs torch 2.3 on {device.type}; this is {torch.__version__}')
    return torch.cuda.amp.GradScaler()


def is_out_of_memory(error):
    """Whether an exception says that the memory of the device or of the machine does not suffice."""
    texts = ('out of memory', 'DefaultCPUAllocator', 'ALLOC_FAILED')  # of CUDA, of the machine, of cuBLAS and cuDNN
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)
