/* What a model file, its tokenizer and its template may make the engine do. Files are hostile. */
#pragma once

#define GGUF_KEYS_MAX         65536       /* metadata entries */
#define GGUF_TENSORS_MAX      65536       /* tensors */
#define GGUF_NAME_BYTES_MAX   65535       /* a key or a tensor's name */
#define GGUF_ALIGNMENT_MAX    65536       /* bytes; a power of two */
#define MODEL_TENSORS_MAX     65536       /* tensors of one safetensors file */
#define MODEL_SHARDS_MAX      1024        /* safetensors files of one model */
#define HF_FILE_BYTES_MAX     (64u << 20) /* tokenizer.json; smaller files the same */
#define JSON_VALUES_MAX       4000000     /* values of one JSON text: about 400 MB */
#define HF_SPECIAL_TOKENS_MAX 4096        /* entries of additional_special_tokens */
#define JSON_DEPTH_MAX        64          /* levels */
#define MODEL_LAYERS_MAX      1024        /* transformer blocks */
#define MODEL_VOCAB_MAX       1048576     /* tokens */
#define MODEL_DIM_MAX         65536       /* elements of any one dimension but the vocabulary */
#define MODEL_CONTEXT_MAX     1048576     /* positions */
#define MODEL_END_TOKENS_MAX  32          /* ids that end a reply */
#define TOKEN_BYTES_MAX       65536       /* bytes of one vocabulary entry */
#define TEXT_BYTES_MAX        (16u << 20) /* bytes of one text to tokenise */
#define TEMPLATE_BYTES_MAX    262144      /* bytes of a chat template's source */
#define TEMPLATE_STEPS_MAX    1000000     /* evaluation steps of one rendering */
#define TEMPLATE_OUTPUT_BYTES_MAX                                                                  \
	(16u << 20) /* bytes of one rendering, intermediate strings included */
#define TEMPLATE_MEMORY_BYTES_MAX (128u << 20) /* bytes of one compilation or rendering */
#define TEMPLATE_DEPTH_MAX        128          /* nesting of blocks, expressions and macro calls */
#define STOP_TEXTS_MAX            16           /* stop strings of a request */
#define STOP_BYTES_MAX            256          /* bytes of one stop string */
