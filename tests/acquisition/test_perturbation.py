"""Compares copies of an image with NumPy, and tests the distribution of the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition.perturbation import copies, rotated

KEY = jax.random.key(0)
ONES = (1.0,)


def image(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def bilinear(x, angle):
    """Interpolates the source of each position from the four pixels around it."""
    height, width = x.shape[:2]
    middle = np.array([height - 1, width - 1]) / 2
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    y = np.zeros(x.shape)
    for i in range(height):
        for j in range(width):
            source = back @ (np.array([i, j]) - middle) + middle
            corner = np.floor(source).astype(int)
            for step in np.ndindex(2, 2):
                weight = np.prod(1 - abs(source - corner - step))
                a, b = np.clip(corner + step, 0, [height - 1, width - 1])
                y[i, j] += weight * x[a, b]
    return y


@pytest.mark.parametrize("angle", [0.1, -0.4, 2.0])
def test_rotation_is_bilinear_about_the_centre(angle):
    x = image(7, 10, 2)
    np.testing.assert_allclose(rotated(x, angle), bilinear(x, angle), atol=1e-2)


def test_no_angle_leaves_the_image_and_quarter_turns_are_exact():
    x = image(8, 8, 3)
    np.testing.assert_array_equal(rotated(x, jnp.float32(0)), x)
    for turns in (-1, 1, 2):
        turned = rotated(x, jnp.float32(turns * np.pi / 2))
        np.testing.assert_allclose(turned, np.rot90(x, turns), atol=1e-2)


def test_without_angle_and_noise_all_copies_are_the_image():
    x = image(9, 8, 1)
    made = copies(KEY, x, ONES, num_copies=40, angle=0.0, noise=0.0)
    np.testing.assert_array_equal(made, np.broadcast_to(x, (40, 9, 8, 1)))


def test_noise_is_normal_with_the_stated_deviation_in_normalised_units():
    std = np.array([0.5, 0.2])
    flat = jnp.full((15, 15, 2), 100)  # invariant to rotation
    made = np.asarray(copies(KEY, flat, std, num_copies=300))
    noise = ((made - 100) / 255 / std).reshape(-1, 2) / 0.01
    tolerance = 5 / np.sqrt(len(noise))
    np.testing.assert_allclose(noise.mean(0), 0, atol=tolerance)
    np.testing.assert_allclose(noise.std(0), 1, atol=tolerance)
    for bound, share in ((0.5, 0.3829), (1, 0.6827), (2, 0.9545), (3, 0.9973)):
        inside = (abs(noise) < bound).mean(0)
        np.testing.assert_allclose(inside, share, atol=tolerance / 2)
    # The values of a copy are uncorrelated, also those of the same random word.
    correlations = np.corrcoef(made.reshape(300, -1)[:, :20].T) - np.eye(20)
    assert abs(correlations).max() < 5 / np.sqrt(300)


def test_angles_have_the_stated_deviation():
    """Computes the angle from the slope of a rotated ramp along y."""
    ramp = jnp.broadcast_to(100 + jnp.arange(21.0), (21, 21))[..., None]
    made = copies(KEY, ramp, ONES, num_copies=400, noise=0.0)[..., 0]
    angles = np.rad2deg(np.arcsin((made[:, 13, 10] - made[:, 7, 10]) / -6))
    assert abs(angles.mean()) < 5 * 5 / np.sqrt(400)
    assert abs(angles.std() - 5) < 5 * 5 / np.sqrt(800)


def test_copies_repeat_by_key_and_differ():
    x = image(8, 8, 1)
    made = copies(KEY, x, ONES, num_copies=35)
    np.testing.assert_array_equal(made, copies(KEY, x, ONES, num_copies=35))
    np.testing.assert_allclose(made[:3], copies(KEY, x, ONES, num_copies=3), rtol=1e-5)
    assert len(np.unique(np.asarray(made).reshape(35, -1), axis=0)) == 35
    assert (made != copies(jax.random.key(1), x, ONES, num_copies=35)).any((1, 2)).all()
