"""The polynomials and series of the compiled sweep against numpy and scipy."""

import numba
import numpy as np
from scipy import special

from stormcell.nn import onepass


@numba.njit
def exp_and_log1p(x, exponentials, logarithms):
    for i in range(x.size):
        exponentials[i], logarithms[i] = onepass._exp(x[i]), onepass._log1p(x[i])


def swept(x):
    x = np.asarray(x, np.float32)
    exponentials, logarithms = np.empty_like(x), np.empty_like(x)
    exp_and_log1p(x, exponentials, logarithms)
    return x.astype(float), exponentials, logarithms


def test_exponential():
    x, found, _ = swept(np.linspace(-87, 88, 100_001))
    np.testing.assert_allclose(found, np.exp(x), rtol=2e-7)
    _, found, _ = swept([-np.inf, -1000, -87.1, 0, 88.1, np.inf, np.nan])
    np.testing.assert_array_equal(found[:4], [0, 0, 0, 1])
    np.testing.assert_allclose(found[4:6], np.exp(88), rtol=2e-7)
    assert np.isnan(found[6])


def test_logarithm_keeps_its_digits_where_it_is_tiny():
    x, _, found = swept(np.concatenate([[0], np.logspace(-30, 0, 100_000)]))
    np.testing.assert_allclose(found, np.log1p(x), rtol=2e-7)


def test_digamma_is_that_of_scipy():
    z = np.concatenate([np.logspace(-6, 8, 200), [1.0, 2.5, 10.0]])
    np.testing.assert_allclose([onepass._digamma(float(one)) for one in z], special.digamma(z), rtol=1e-10, atol=1e-12)
    assert np.isnan([onepass._digamma(one) for one in (0.0, -1.5, -1e300, -np.inf, np.nan)]).all()
