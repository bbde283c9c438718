# SPDX-License-Identifier: Apache-2.0
"""What the methods cost in PyTorch: the equations of the papers, vectorised as a researcher would
write them, on one CPU thread in float32, at the shapes of the C++ benchmarks beside this file.

    pip install torch
    python bench/peers.py [--json times.json] [--only ficoco,evs] [--repeats 11]

Prints the median processor time of each reduction in milliseconds, beside the wall time of the
authors' own PyTorch code, measured once on a similar machine ("+": the attention that their method
needs first). Not part of any build or test.
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

SEED = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=SEED)


def attention(tokens, heads, head_dim, causal=False):
    q, k = normal(heads, tokens, head_dim), normal(heads, tokens, head_dim)
    logits = q @ k.transpose(1, 2) / head_dim**0.5
    if causal:
        logits = logits.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), float("-inf"))
    return logits.softmax(-1)


def split(scores, keep):
    """Indices of the `keep` highest scores and of the others, both ascending."""
    order = scores.argsort(descending=True, stable=True)
    return order[:keep].sort().values, order[keep:].sort().values


def merge(x, links, gone, stay):
    """Links above each row's 0.998-quantile, normalised; x[stay] averaged with what they get."""
    links = torch.where(links >= links.quantile(0.998, dim=1, keepdim=True), links, 0)
    shares = links / links.sum(1, keepdim=True)
    return (x[stay] + shares.T @ x[gone]) / (1 + shares.sum(0))[:, None]


def ficoco_v(a, x, r):
    a = a.mean(0)
    patches = a[1:, 1:]
    score = 0.35 * patches.mean(0) - 0.65 * a[0, 1:]
    windows = score.view(12, 2, 12, 2).transpose(1, 2).reshape(144, 4)
    best, at = windows.max(1, keepdim=True)  # each window is pushed to give up one patch
    windows = windows.scatter(1, at, torch.where(best > 0, 2 * best, best / 2))
    score = windows.view(12, 12, 2, 2).transpose(1, 2).reshape(-1)
    gone, stay = split(score, r)
    return merge(x[1:], patches[gone][:, stay], gone, stay)


def ficoco_l(a, x, r):
    a = a.mean(0)
    visual, text = slice(35, 611), slice(611, 636)
    among, asked = a[visual, visual], a[text, visual]
    gone, stay = split(0.6 * among.mean(0) - 0.4 * asked.mean(0), r)
    indirect = asked[:, gone].T @ asked[:, stay] / asked.shape[0]
    return merge(x[visual], 0.6 * among[gone][:, stay] + 0.4 * indirect, gone, stay)


def prumerge(q, k, x, samples):
    a = (q @ k.T / k.shape[1] ** 0.5).softmax(-1)
    low, high = a.quantile(torch.tensor([0.25, 0.75]))
    chosen = a > high + 1.5 * (high - low)
    chosen[samples] = True
    stay, gone = chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]
    unit = F.normalize(k, dim=1)
    near = (unit[stay] @ unit.T).scatter(1, stay[:, None], -2).topk(32).indices
    merged = x[stay] + (a[near][..., None] * x[near]).sum(1)
    return torch.cat([merged, (a[gone] @ x[gone])[None]])


def tome(k, x, sizes, r):
    unit = F.normalize(k, dim=1)
    similarity = unit[::2] @ unit[1::2].T
    similarity[0] = -torch.inf  # [CLS]
    best, target = similarity.max(1)
    order = best.argsort(descending=True)
    gone, left = order[:r], order[r:].sort().values
    total = x[1::2] * sizes[1::2]
    total = total.index_add(0, target[gone], (x * sizes)[::2][gone])
    size = sizes[1::2].index_add(0, target[gone], sizes[::2][gone])
    return torch.cat([x[::2][left], total / size])


def evit(a, x, keep):
    weight = a[:, 0, 1:].mean(0)
    stay, gone = split(weight, keep)
    return torch.cat([x[1:][stay], (weight[gone, None] * x[1:][gone]).sum(0, keepdim=True)])


def visionzip(a, k, x, dominant, contextual):
    stay, rest = split(a[:, 0, 1:].sum(0), dominant)
    keys = F.normalize(k[:, 1:].mean(0)[rest], dim=1)
    rows = x[1:][rest]
    step = max(1, len(rest) // contextual)
    at = torch.arange(0, len(rest), step)[:contextual]
    other = torch.ones(len(rest), dtype=torch.bool)
    other[at] = False
    given = F.one_hot((keys[other] @ keys[at].T).argmax(1), contextual).float()
    mean = given.T @ rows[other] / given.sum(0).clamp(min=1)[:, None]
    return torch.cat([x[1:][stay], rows[at] + mean])


def fastv(a, x, keep):
    score = a[:, -1, 35:611].mean(0)
    stay, _ = split(score, keep)
    return torch.cat([x[:35], x[35:611][stay], x[611:]])


def divprune(x, keep):
    unit = F.normalize(x, dim=1)
    distance = 1 - unit @ unit.T
    distance.fill_diagonal_(torch.inf)
    picked = [int(distance.min(1).values.argmax())]
    distance.fill_diagonal_(0)
    nearest = distance[picked[0]].clone()
    while len(picked) < keep:
        nearest[picked[-1]] = -1
        picked.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distance[picked[-1]])
    return x[torch.tensor(picked).sort().values]


def cdpruner(x, image, text, keep):
    relevance = (F.normalize(image, dim=1) @ F.normalize(text, dim=1).T).mean(1)
    relevance = (relevance - relevance.min()) / (relevance.max() - relevance.min())
    unit = F.normalize(x, dim=1)
    kernel = relevance[:, None] * (unit @ unit.T) * relevance
    gain = kernel.diagonal().clone()
    rows = torch.zeros(keep, len(x))
    picked = []
    for step in range(keep):
        j = int(gain.argmax())
        picked.append(j)
        rows[step] = (kernel[j] - rows[:step, j] @ rows[:step]) / gain[j].sqrt()
        gain = gain - rows[step] ** 2
        gain[j] = -torch.inf
    return x[torch.tensor(picked).sort().values]


def mmtok(x, image, text, keep):
    n, m = len(x), len(text)
    unit, seen = F.normalize(x, dim=1), F.normalize(image, dim=1)
    asked = (F.normalize(text, dim=1) @ unit.T / 0.02).softmax(1) / m
    shown = 0.5 * (seen @ seen.T / 0.2).softmax(1) / n
    return x[cover(torch.cat([asked, shown]), keep)]


def cover(worth, keep, weight=1.0):
    """Greedily the columns that add most to Σ_rows max over columns."""
    best = torch.zeros(len(worth), 1)
    free = torch.zeros(worth.shape[1])
    picked = []
    for _ in range(keep):
        j = int(((worth - best).relu().sum(0) * weight + free).argmax())
        picked.append(j)
        free[j] = -torch.inf
        best = torch.maximum(best, worth[:, j : j + 1])
    return torch.tensor(picked).sort().values


def scope(a, x, keep):
    unit = F.normalize(x[1:], dim=1)
    return x[1:][cover(unit @ unit.T, keep, a[:, 0, 1:].sum(0))]


def sparsevlm(a, x, raters, keep):
    score = a[:, raters, 35:611].mean((0, 1))
    stay, gone = split(score, keep)
    recycled = gone[score[gone].topk(int(0.3 * len(gone)) + 1).indices]
    rows = x[35:611][recycled]
    clusters = len(rows) // 10 + 1
    distance = torch.cdist(rows, rows) / rows.shape[1] ** 0.5
    density = (-distance.topk(clusters, largest=False).values.square().mean(1)).exp()
    denser = density[None] > density[:, None]
    gap = torch.where(denser, distance, distance.max()).min(1).values
    centres = (gap * density).topk(clusters).indices
    given = F.one_hot(distance[:, centres].argmin(1), clusters).float()
    mean = given.T @ rows / (given.sum(0) + 1e-6)[:, None]
    return torch.cat([x[:35], x[35:611][stay], mean, x[611:]])


def dart(x, k, keep):
    norms = k.norm(p=1, dim=1)
    pivots = norms[35:611].topk(4).indices + 35
    voters = torch.cat([pivots, norms[611:].topk(4).indices + 611])
    unit = F.normalize(x, dim=1)
    taken = torch.zeros(576, dtype=torch.bool)
    taken[pivots - 35] = True
    for pivot in voters:
        similarity = unit[35:611] @ unit[pivot]
        similarity[taken] = torch.inf
        taken[similarity.topk((keep - 4) // 8, largest=False).indices] = True
    return torch.cat([x[:35], x[35:611][taken], x[611:]])


def evs(x, keep):
    score = 1 - F.cosine_similarity(x[1:], x[:-1], dim=-1)
    score = torch.cat([torch.full_like(score[:1], 255), score]).flatten()
    return x.flatten(0, 1)[split(score, keep)[0]]


def vidcom2(x, retention):
    frames, cells, channels = x.shape
    low = x.flatten(0, 1).var(0, unbiased=False).topk(channels // 2, largest=False).indices
    unit = F.normalize(x[..., low], dim=-1)

    def gaussians(centre):
        square = (unit - centre).square().sum(-1)
        return sum((-square / (2 * a)).exp() for a in (0.125, 0.25, 0.5, 1, 2))

    to_video = gaussians(unit.mean((0, 1)))
    score = to_video + gaussians(unit.mean(1, keepdim=True))
    p = (-to_video.mean(1) / 0.01).softmax(0)
    counts = ((retention * (1 + p - p.mean())).clamp(max=1) * cells).round().clamp(1, cells)
    rank = score.argsort(dim=1, stable=True).argsort(dim=1)
    return x[rank < counts[:, None]]


def cases():
    """Name, what the authors' code took (ms), what its attention took, the work."""
    vision, decoder = attention(577, 16, 64), attention(636, 32, 128, causal=True)
    x, wide = normal(577, 1024), normal(636, 4096)
    k, heads_k, wide_k = normal(577, 1024), normal(16, 577, 64), normal(636, 4096)
    projected, image, text = normal(576, 4096), normal(576, 768), normal(1, 768)
    question, sizes, frames = normal(16, 4096), torch.ones(577, 1), normal(16, 256, 3584)
    none = torch.empty(0, dtype=torch.long)
    skewed = normal(1024) * 0.6  # a query that leaves some outliers
    return [
        ("ficoco_v", 4.4, 9.3, lambda: ficoco_v(vision, x, 42)),
        ("ficoco_l", 9.3, 91.7, lambda: ficoco_l(decoder, wide, 42)),
        ("prumerge", 17.6, 0, lambda: prumerge(skewed, k[1:], x[1:], none)),
        ("prumerge_plus", 41.1, 0, lambda: prumerge(skewed, k[1:], x[1:], torch.arange(0, 576, 6))),
        ("tome", 1.07, 0, lambda: tome(heads_k.mean(0), x, sizes, 42)),
        ("evit", 1.02, 0, lambda: evit(vision, x, 288)),
        ("visionzip", 3.6, 0, lambda: visionzip(vision, heads_k, x, 53, 10)),
        ("fastv", 4.9, 0, lambda: fastv(decoder, wide, 288)),
        ("divprune_1024", 10.4, 0, lambda: divprune(x[1:], 64)),
        ("divprune_4096", 31, 0, lambda: divprune(projected, 64)),
        ("cdpruner", 43, 0, lambda: cdpruner(projected, image, text, 64)),
        ("mmtok", 16, 0, lambda: mmtok(projected, x[1:], question, 64)),
        ("scope", 35, 0, lambda: scope(vision, x, 64)),
        ("sparsevlm", 68, 0, lambda: sparsevlm(decoder, wide, torch.arange(611, 625), 300)),
        ("dart", 32, 0, lambda: dart(wide, wide_k, 64)),
        ("evs", 68, 0, lambda: evs(frames, 1024)),
        ("vidcom2", 139, 0, lambda: vidcom2(frames, 0.25)),
    ]


def median_ms(work, repeats):
    work()
    times = []  # processor time: what else the machine does does not count
    for _ in range(repeats):
        start = time.thread_time()
        work()
        times.append(1e3 * (time.thread_time() - start))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", help="file to write the times to")
    parser.add_argument("--only", default="", help="names, or beginnings of names, with commas")
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    print(f"torch {torch.__version__}, 1 thread, float32, median of {options.repeats}, ms")
    print(f"{'method':<16}{'this script':>12}{'authors':>10}{'+':>7}")
    with torch.inference_mode():
        for name, authors, extra, work in cases():
            if options.only and not name.startswith(tuple(options.only.split(","))):
                continue
            ms = median_ms(work, options.repeats)
            results[name] = {"ms": ms, "authors_ms": authors, "authors_attention_ms": extra}
            print(f"{name:<16}{ms:>12.2f}{authors:>10.2f}{extra or '':>7}", flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"torch": torch.__version__, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
