"""Total variation: a penalty on differences of neighbouring pixels."""


def total_variation_loss(images):
    """Mean squared difference of neighbours along the rows plus that along the columns; (N, 3, H, W) -> scalar."""
    along = (images[..., :, 1:] - images[..., :, :-1]).square().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).square().mean()
    return along + down
