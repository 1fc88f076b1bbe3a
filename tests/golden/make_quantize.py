"""Makes quantize.json: what llama.cpp's quantiser does with the default model, and how far its own
arithmetic is from exact on the files that zeph writes. Usage: make_quantize.py [OUT]

types   the tensor types of llama_model_quantize(), per mix, of two models: the default one, and
        one of 32 layers whose heads share keys by four (the most frequent type, and the rest)
rms     the relative RMS error of ggml_quantize_chunk() per type and tensor; rows are taken 256 at a
        time, so that the default model's 576 are no hindrance
kl      the mean KL divergence of the model that llama_model_quantize() wrote from the f32 one, both
        on zeph's reference backend
llama   the mean KL divergence of llama.cpp's logits from the reference backend's on zeph's file

Beside what the tests use it needs llama-cpp-python==0.3.36 (compiled by pip, half an hour), and a
build of zeph in $ZEPH_BUILD.
"""

import collections
import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import divergence  # noqa: E402
import quantize_measures as measures  # noqa: E402

LIBRARY = pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"
FILE_TYPES = {"q8_0": 7, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11,
              "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17,
              "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30, "f16": 1, "bf16": 32}


@llama_cpp.llama_log_callback
def quiet(level, text, userdata):
    pass


def quantize(source, path, mix):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[mix]
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(),
                                          ctypes.byref(params)) == 0


def rms_of_ggml(values, kind):
    library = ctypes.CDLL(str(LIBRARY))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + \
        [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    number = gguf.GGMLQuantizationType[kind.upper()]
    elements, size = gguf.GGML_QUANT_SIZES[number]
    blocks = np.zeros(values.size // elements * size, np.uint8)
    done = library.ggml_quantize_chunk(int(number), values.ctypes.data, blocks.ctypes.data, 0,
                                       values.size // 256, 256, None)
    assert done == blocks.size
    return measures.rms(values, blocks, kind)


def logits_of_llama(path, tokens):
    model = llama_cpp.llama_model_load_from_file(str(path).encode(),
                                                 llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = len(tokens), 64, 64
    context = llama_cpp.llama_init_from_model(model, params)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    logits = np.zeros((len(tokens), vocabulary), np.float32)
    for start in range(0, len(tokens), 64):
        part = tokens[start:start + 64]
        batch = llama_cpp.llama_batch_init(len(part), 0, 1)
        batch.n_tokens = len(part)
        for i, token in enumerate(part):
            batch.token[i], batch.pos[i], batch.logits[i] = token, start + i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        assert llama_cpp.llama_decode(context, batch) == 0
        logits[start:start + len(part)] = np.ctypeslib.as_array(
            llama_cpp.llama_get_logits(context), shape=(len(part), vocabulary))
        llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return logits


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "quantize.json"
    build = pathlib.Path(os.environ["ZEPH_BUILD"])
    default = pathlib.Path(os.environ.get("ZEPH_MODEL") or os.path.expanduser(
        "~/.cache/zeph/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    llama_cpp.llama_log_set(quiet, None)
    tokens = measures.text_tokens()
    golden = {"types": {"default": {}, "deep": {}}, "rms": {}, "kl": {}, "llama": {}}
    for kind in measures.SEARCHED:
        golden["rms"][kind] = {name: rms_of_ggml(values, kind)
                               for name, values in measures.sample_tensors(default)}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        sources = {"default": folder / "default.gguf", "deep": folder / "deep.gguf"}
        subprocess.run([build / "engine/zeph-quantize", default, sources["default"], "--type", "f32"],
                       check=True)
        measures.write_deep_model(sources["deep"])
        exact = divergence.logits(build, sources["default"], folder, tokens, "--device", "reference")
        path = folder / "quantised.gguf"
        for mix in FILE_TYPES:
            for name, source in sources.items():
                quantize(source, path, mix)
                types = measures.types_of(path)
                most = collections.Counter(types.values()).most_common(1)[0][0]
                golden["types"][name][mix] = {
                    "most": most, "else": {k: v for k, v in types.items() if v != most}}
                if name == "default" and mix in measures.MIXES:
                    found = divergence.logits(build, path, folder, tokens, "--device", "reference")
                    golden["kl"][mix] = divergence.mean_kl(exact, found)
            path.unlink()
            subprocess.run([build / "engine/zeph-quantize", sources["default"], path, "--type", mix],
                           check=True)
            if mix not in ("f16", "bf16"):
                reference = divergence.logits(build, path, folder, tokens, "--device", "reference")
                golden["llama"][mix] = divergence.mean_kl(reference, logits_of_llama(path, tokens))
            print(mix, golden["kl"].get(mix), golden["llama"].get(mix), flush=True)
    out.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
