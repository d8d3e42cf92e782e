"""The one free phase of each group, found from how the groups overlap: angular synchronisation, in near-linear time."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BY_LANCZOS = 4096
"""Groups of which the leading eigenvector is computed."""

SWEEPS = 30
"""Steps of the generalised power method in a cluster, and on each level before the large-scale steps."""

MOST_STEPS, CONVERGED = 50, 1e-6
"""Of the large-scale steps: how many at most, and the largest turn in rad of the last one."""

SOLVED, MOST_ITERATIONS = 0.1, 2000
"""Of the conjugate gradients within a step: the relative residual, and how many iterations at most."""

Phasors = NDArray[np.complex128]


def agreeing_phases(links: Any) -> NDArray[np.float64]:
    """Phases in rad (n,) of groups that make their overlaps agree best; each island's mean phase is zero.

    Parameters
    ----------
    links : sparse array of complex, (n, n)
        Hermitian with an empty diagonal: ``links[g, h]`` is the inner product of what the groups g and h say of the
        pixels that both reach, conjugate on g. Islands are groups that no chain of links connects.

    Returns
    -------
    ndarray of float64, (n,)
        Of the leading eigenvector of `links`, normalised by its degrees (Singer, Appl. Comput. Harmon. Anal. 30 (2011)
        20). Of more than `MOST_BY_LANCZOS` groups, which it does not settle in linear time: of phasors x for
        which ``x^H links x`` is largest, as near to the truth. 0 where a group has no link.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_array
    >>> turned = np.exp(1j * np.array([0.3, -0.3, 1.0]))
    >>> links = csr_array(np.outer(turned, turned.conj()) * [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    >>> np.round(agreeing_phases(links), 6)
    array([ 0.3, -0.3,  0. ])
    """
    from scipy.sparse.csgraph import connected_components

    n_islands, island = connected_components(abs(links) > 0, directed=False)
    order = np.argsort(island, kind="stable")
    together, phases = links if n_islands == 1 else links[order][:, order], np.zeros(links.shape[0])
    for first, end in pairwise([0, *np.cumsum(np.bincount(island)).tolist()]):
        if end - first > 1:
            own = together[first:end, first:end] if n_islands > 1 else together
            leading = _leading_eigenvector(own) if end - first <= MOST_BY_LANCZOS else _agreeing(own)
            phases[order[first:end]] = np.angle(leading * np.exp(-1j * np.angle(leading.sum())))
    return phases


def _leading_eigenvector(links: Any) -> Phasors:
    """Of links over the roots of their degrees; Lanczos from a fixed start, dense where they are few."""
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import eigsh

    root, n = diags_array(1 / np.sqrt(abs(links).sum(axis=0))), links.shape[0]
    matrix = (root @ links @ root).tocsr()
    if n <= 64:
        return np.asarray(np.linalg.eigh(matrix.toarray())[1][:, -1])
    return np.asarray(eigsh(matrix, k=1, which="LA", v0=np.ones(n, np.complex128))[1][:, 0])


def _agreeing(links: Any) -> Phasors:
    """Coarse to fine: clusters of groups are made to agree within, then with each other, then all is relaxed."""
    from scipy.sparse import csr_array

    n = links.shape[0]
    if not links.nnz:
        return np.ones(n, np.complex128)
    cluster, x = _clusters(links)
    spread = csr_array((x, cluster, np.arange(n + 1)))
    coarse = (spread.conj().T @ (links @ spread)).tocoo()
    apart = coarse.row != coarse.col
    coarse = csr_array((coarse.data[apart], (coarse.row[apart], coarse.col[apart])), coarse.shape)
    return _relaxed(links, x * _agreeing(coarse)[cluster])


def _clusters(links: Any) -> tuple[NDArray[np.intp], Phasors]:
    """Which cluster each group belongs to, and phasors that make it agree with the others there.

    Every group follows its neighbour of the highest rank, uphill to one that outranks its own; ranks are drawn.
    """
    n = links.shape[0]
    rank = np.random.default_rng(0).permutation(n)
    highest = np.maximum.reduceat(np.append(rank[links.indices], -1), links.indptr[:-1])
    leader = np.argsort(rank)[np.maximum(np.where(np.diff(links.indptr) > 0, highest, -1), rank)]
    row, x = np.repeat(np.arange(n), np.diff(links.indptr)), np.ones(n, np.complex128)
    followed = links.indices == leader[row]
    x[row[followed]] = _unit(links.data[followed])  # as whom it follows wants it
    while (leader[leader] != leader).any():
        x, leader = x * x[leader], leader[leader]
    cluster = np.unique(leader, return_inverse=True)[1]
    inside = links.copy()
    inside.data = links.data * (cluster[row] == cluster[links.indices])
    return cluster, _swept(inside, x)


def _swept(links: Any, x: Phasors) -> Phasors:
    """Each phasor as its neighbours want it, again and again, which settles what is near.

    The generalised power method (Boumal, SIAM J. Optim. 26 (2016) 2355).
    """
    for _ in range(SWEEPS):
        x = _unit(links @ x, x)
    return x


def _relaxed(links: Any, x: Phasors) -> Phasors:
    """The nearest phasors for which ``x^H links x`` is largest.

    What is far is settled by steps over all groups at once: the Laplacian of the links' moduli bounds the curvature
    whatever the phases are, so that every step climbs, and conjugate gradients solve for it.
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import cg

    x, size = _swept(links, x), abs(links)
    degree = size.sum(axis=1)
    laplacian, jacobi = diags_array(degree) - size, diags_array(1 / np.where(degree > 0, degree, 1))
    for _ in range(MOST_STEPS):
        slope = (x.conj() * (links @ x)).imag
        turn, _ = cg(laplacian, slope - slope.mean(), rtol=SOLVED, maxiter=MOST_ITERATIONS, M=jacobi)
        x = x * np.exp(1j * turn)
        if np.abs(turn).max() < CONVERGED:
            break
    return x


def _unit(values: Any, otherwise: Any = 1) -> Phasors:
    """Each value's phase factor; that of `otherwise` where it is 0."""
    return np.asarray(np.exp(1j * np.angle(np.where(values == 0, otherwise, values))))
