"""Random models that transformers wrote, through both: the `reference` backend gives transformers'
logprobs and greedy ids from the files of every kind of model that zeph reads.

The measure is the largest difference of a logprob in standard deviations of its position's logits. Two
right implementations in f32 differ by about 2e-5 of it; the bar is 3e-4; every planted fault is far above
it, which is shown first, for the same models and by the same measure.
"""

import subprocess

import numpy
import pytest

TOLERANCE = 3e-4  # standard deviations of a position's logits
FAR_ABOVE = 10 * TOLERANCE  # what every fault must move
TIE = 1e-4  # a margin of the best logit over the next below which either is right
N_PROMPT, N_GENERATED = 64, 60
FIRST_FAR, N_FAR = 32000, 64

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def models():
    import random_models
    return random_models


@pytest.fixture(scope="module")
def zeph_logits(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logits")

    def run(model, ids):
        numpy.asarray(ids, "<u4").tofile(folder / "tokens")
        subprocess.run([build / "tests/tool/zeph-logits", "--model", model, "--device", "reference", "--tokens",
                        folder / "tokens", "--out", folder / "out"], check=True, timeout=600)
        return numpy.fromfile(folder / "out", "<f4").reshape(len(ids), -1)

    return run


@pytest.fixture(scope="module")
def made(models, seed, tmp_path_factory):
    """Each model once: its directory, its tokens with transformers' continuation, its logits."""
    cache = {}

    def run(spec):
        if spec.name not in cache:
            directory = models.make(spec, seed, tmp_path_factory.mktemp("model"))
            right = models.load(spec, directory)
            prompt = models.tokens(spec, seed, N_PROMPT)
            ids = prompt + models.continue_greedily(right, prompt, N_GENERATED)
            cache[spec.name] = directory, ids, models.logits(right, ids)
        return cache[spec.name]

    return run


def pytest_generate_tests(metafunc):
    if "spec" not in metafunc.fixturenames:
        return
    try:
        import random_models
    except ImportError:  # without PyTorch: deselected by its mark
        metafunc.parametrize("spec", [])
        return
    specs = random_models.FAR if "far" in metafunc.function.__name__ else random_models.SPECS
    metafunc.parametrize("spec", specs, ids=str)


def difference(of, to):
    """The largest difference of logprobs, in standard deviations of each position's logits in `to`."""
    def logprobs(x):
        x = x.astype(numpy.float64)
        x -= x.max(-1, keepdims=True)
        return x - numpy.log(numpy.exp(x).sum(-1, keepdims=True))

    return (numpy.abs(logprobs(of) - logprobs(to)).max(-1) / to.std(-1)).max()


def test_models_cover_what_was_promised(models):
    specs = models.SPECS
    assert len(specs) >= 12
    assert {s.heads // s.kv_heads for s in specs} >= {1, 2, 4, 8}
    assert {min(s.head_dim for s in specs), max(s.head_dim for s in specs)} == {32, 128}
    assert any(s.window and s.window < N_PROMPT for s in specs)
    assert any(s.window and N_PROMPT < s.window < N_PROMPT + N_GENERATED for s in specs)
    assert {s.dtype for s in specs} == {"f32", "f16", "bf16"}
    assert {s.rope and (s.rope.get("rope_type") or s.rope["type"]) for s in specs} == {
        None, "linear", "llama3", "yarn"}
    for flag in ("tied", "sharded", "attention_bias", "mlp_bias"):
        assert {getattr(s, flag) for s in specs} == {False, True}
    assert (min(s.vocab for s in specs), max(s.vocab for s in specs)) == (500, 32000)


def test_planted_faults_are_found(models, made, spec):
    directory, ids, right = made(spec)
    for name, (changes, change) in models.faults(spec).items():
        wrong = models.load(spec, directory, **changes)
        if change:
            change(wrong, spec)
        moved = difference(models.logits(wrong, ids), right)
        print(f"\n{name}: {moved:.1e}", end="")
        assert moved > FAR_ABOVE, name


def test_logprobs_and_greedy_ids_are_those_of_transformers(made, zeph_logits, spec):
    directory, ids, right = made(spec)
    found = zeph_logits(directory, ids)
    worst = difference(found, right)
    print(f"\nworst: {worst:.1e} of {TOLERANCE:.0e}", end="")
    assert worst < TOLERANCE
    generated = slice(N_PROMPT - 1, N_PROMPT + N_GENERATED - 1)  # rows that choose the generated ids
    for row, expected, mine in zip(right[generated], ids[N_PROMPT:], found[generated].argmax(-1)):
        best = numpy.sort(row)[-2:]
        assert mine == expected or best[1] - best[0] < TIE * row.std()


def test_far_positions(models, zeph_logits, seed, tmp_path, spec):
    """32,064 tokens in zeph. Of what transformers is fed, the tail with its position ids, each of the
    compared rows sees through two windows all that it would have seen of the whole."""
    directory = models.make(spec, seed, tmp_path / "model")
    ids = models.tokens(spec, seed, FIRST_FAR + N_FAR)
    start = FIRST_FAR - spec.layers * spec.window
    right = models.logits(models.load(spec, directory), ids[start:], start)[-N_FAR:]
    found = zeph_logits(directory, ids)[-N_FAR:]
    worst = difference(found, right)
    off = models.load(spec, directory, rope_theta=spec.theta * 0.99)
    moved = difference(models.logits(off, ids[start:], start)[-N_FAR:], right)
    print(f"\nworst: {worst:.1e} of {TOLERANCE:.0e}, theta x 0.99: {moved:.1e}", end="")
    assert worst < TOLERANCE
    assert moved > FAR_ABOVE


def test_five_thousand_tokens(models, zeph_logits, seed, tmp_path):
    spec = models.LONG
    directory = models.make(spec, seed, tmp_path / "model")
    ids = models.tokens(spec, seed, 5000)
    worst = difference(zeph_logits(directory, ids), models.logits(models.load(spec, directory), ids))
    print(f"\nworst: {worst:.1e} of {TOLERANCE:.0e}", end="")
    assert worst < TOLERANCE
